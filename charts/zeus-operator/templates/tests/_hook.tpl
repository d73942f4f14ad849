{{- /* Annotations of what `helm test` makes; a pod that failed stays, to be looked at. */}}
{{- define "zeus-operator.test-hook" -}}
helm.sh/hook: test
helm.sh/hook-weight: {{ . | quote }}
helm.sh/hook-delete-policy: before-hook-creation,hook-succeeded
{{- end }}
