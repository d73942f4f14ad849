{{- define "zeus-operator.token-directory" -}}
/var/run/secrets/zeus.energy
{{- end }}

{{- /*
The settings of the operator's process, but for the database.  Those in operator.settings have the
name of their variable in another spelling.
*/}}
{{- define "zeus-operator.operator-env" -}}
- name: ZEUS_OPERATOR_POD_NAME
  valueFrom:
    fieldRef:
      fieldPath: metadata.name
- name: ZEUS_OPERATOR_LEASE_NAMESPACE
  valueFrom:
    fieldRef:
      fieldPath: metadata.namespace
{{- /* The rights are to this one. */}}
- name: ZEUS_OPERATOR_LEASE_NAME
  value: zeus-operator
- name: ZEUS_OPERATOR_WATCH_NAMESPACES
  value: {{ join "," .Values.watchNamespaces | quote }}
- name: ZEUS_OPERATOR_WORKLOADS
  value: {{ .Values.operator.workloads | default (list "Job") | join "," | quote }}
{{- range $key, $value := .Values.operator.settings }}
{{- $part := ternary "namespace-modes" "number" (kindIs "slice" $value) }}
- name: ZEUS_OPERATOR_{{ snakecase $key | upper }}
  value: {{ include (printf "zeus-operator.%s" $part) $value | quote }}
{{- end }}
{{- if .Values.agent.enabled }}
- name: ZEUS_OPERATOR_AGENT_SERVICE
  value: {{ printf "zeus-agent.%s" .Release.Namespace | quote }}
- name: ZEUS_OPERATOR_AGENT_ADDRESS
  value: {{ include "zeus-operator.agent-address" . | quote }}
- name: ZEUS_OPERATOR_AGENT_TOKEN_FILE
  value: {{ include "zeus-operator.token-directory" . }}/agent-token
{{- end }}
{{- if .Values.runtime.enabled }}
- name: ZEUS_OPERATOR_RUNTIME_IMAGE
  value: {{ include "zeus-operator.image" (list . .Values.runtime.image) | quote }}
{{- end }}
{{- end }}

{{- /* The list operator.settings.maxModeByNamespace in one line. */}}
{{- define "zeus-operator.namespace-modes" -}}
{{- $modes := dict -}}
{{- $texts := list -}}
{{- range . -}}
{{- if hasKey $modes .namespace -}}
{{- fail (printf "operator.settings.maxModeByNamespace names %s twice: only the first would count" .namespace) -}}
{{- end -}}
{{- $_ := set $modes .namespace .mode -}}
{{- $texts = append $texts (printf "%s=%s" .namespace .mode) -}}
{{- end -}}
{{- join "," $texts -}}
{{- end }}

{{- define "zeus-operator.agent-address" -}}
{{- $port := include "zeus-operator.number" .Values.agent.service.port -}}
{{- .Values.agent.address | default (printf "zeus-agent.%s.svc:%s" .Release.Namespace $port) -}}
{{- end }}
