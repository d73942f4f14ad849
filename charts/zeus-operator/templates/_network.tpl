{{- /* Who may read health and metrics. Arguments: the root and the port's name. */}}
{{- define "zeus-operator.metrics-ingress" -}}
- ports:
    - port: {{ index . 1 }}
      protocol: TCP
  {{- with (index . 0).Values.networkPolicy.metricsFrom }}
  from:
    {{- toYaml . | nindent 4 }}
  {{- end }}
{{- end }}

{{- /* Names, and the API server. */}}
{{- define "zeus-operator.common-egress" -}}
- ports:
    - port: 53
      protocol: UDP
    - port: 53
      protocol: TCP
- ports:
    {{- range .Values.networkPolicy.egress.apiServerPorts }}
    - port: {{ include "zeus-operator.number" . }}
      protocol: TCP
    {{- end }}
  {{- with .Values.networkPolicy.egress.apiServerTo }}
  to:
    {{- toYaml . | nindent 4 }}
  {{- end }}
{{- end }}
