{{- /* Annotations of the pod of `helm test`; one that failed stays, to be looked at. */}}
{{- define "zeus-operator.test-pod-hook" -}}
helm.sh/hook: test
helm.sh/hook-weight: "0"
helm.sh/hook-delete-policy: before-hook-creation,hook-succeeded
{{- end }}

{{- /* Annotations of its account and rights; they go however the test ends. */}}
{{- define "zeus-operator.test-rights-hook" -}}
helm.sh/hook: test
helm.sh/hook-weight: "-1"
helm.sh/hook-delete-policy: before-hook-creation,hook-succeeded,hook-failed
{{- end }}
