{{/* What values.schema.json can't say: values that don't go together. */}}

{{- define "zeus-operator.database" -}}
{{- if and .Values.database.existingSecret .Values.postgresql.enabled -}}
{{- fail "database.existingSecret and postgresql.enabled are both given: which database is it? Take one away." -}}
{{- else if .Values.postgresql.enabled -}}
name: zeus-postgresql
key: url
{{- else if .Values.database.existingSecret -}}
name: {{ .Values.database.existingSecret | quote }}
key: {{ .Values.database.key | quote }}
{{- else -}}
{{- fail "database.existingSecret is not set: name a Secret in this namespace whose key url holds postgresql://user:password@host:5432/database. Only to try it out: --set postgresql.enabled=true" -}}
{{- end -}}
{{- end }}

{{- /* How NVML comes into the agents' container. */}}
{{- define "zeus-operator.nvidia-mode" -}}
{{- $mode := ternary "simulator" .Values.agent.nvidia.mode .Values.gpuSimulator.enabled -}}
{{- if and (eq $mode "simulator") (not .Values.gpuSimulator.enabled) -}}
{{- fail "agent.nvidia.mode is simulator and nothing simulates GPUs: set gpuSimulator.enabled=true, which brings this mode by itself" -}}
{{- end -}}
{{- if and (eq $mode "hostPath") (not .Values.agent.privileged) -}}
{{- fail "agent.nvidia.mode hostPath needs agent.privileged=true: nothing else gives the container the devices. Take runtimeClass or cdi for an agent with CAP_SYS_ADMIN alone" -}}
{{- end -}}
{{- $mode -}}
{{- end }}

{{- define "zeus-operator.agent-strategy-check" -}}
{{- $rolling := .Values.agent.updateStrategy.rollingUpdate | default dict -}}
{{- $surge := $rolling.maxSurge | default 0 | toString -}}
{{- if not (has $surge (list "0" "0%")) -}}
{{- fail (printf "agent.updateStrategy.rollingUpdate.maxSurge is %s, and must be 0: two agents can't serve one node" $surge) -}}
{{- end -}}
{{- end }}
