{{/*
Names, labels and images.  Names of objects are fixed: the operator's rights and its own Secrets
are by name, and pages and alerts can rely on them.
*/}}

{{- define "zeus-operator.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" }}
app.kubernetes.io/part-of: zeus-operator
app.kubernetes.io/instance: {{ .Release.Name | quote }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- with .Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- /* Arguments: a list of the root and the component's name. */}}
{{- define "zeus-operator.component-labels" -}}
app.kubernetes.io/name: {{ index . 1 }}
{{ include "zeus-operator.labels" (index . 0) }}
{{- end }}

{{- define "zeus-operator.selector-labels" -}}
app.kubernetes.io/name: {{ index . 1 }}
app.kubernetes.io/instance: {{ (index . 0).Release.Name | quote }}
{{- end }}

{{- /*
Labels of an object that has some of the user's for itself; these count before commonLabels.
Arguments: root, component's name, labels of the user's.
*/}}
{{- define "zeus-operator.labels-with" -}}
{{- $component := list (index . 0) (index . 1) -}}
{{- $own := include "zeus-operator.component-labels" $component | fromYaml -}}
{{- $selected := include "zeus-operator.selector-labels" $component | fromYaml -}}
{{- toYaml (mergeOverwrite $own (index . 2) $selected) }}
{{- end }}

{{- /* What the labels of a pod are. Arguments: as above. */}}
{{- define "zeus-operator.pod-labels" -}}
{{- /* Not the chart's version: pods need no restart where only that has changed. */ -}}
{{- toYaml (omit (include "zeus-operator.labels-with" . | fromYaml) "helm.sh/chart" "app.kubernetes.io/managed-by") }}
{{- end }}

{{- define "zeus-operator.crd-annotations" -}}
{{- $annotations := deepCopy .Values.crds.annotations -}}
{{- if .Values.crds.keep -}}
{{- $_ := set $annotations "helm.sh/resource-policy" "keep" -}}
{{- end -}}
{{- toYaml $annotations }}
{{- end }}

{{- /* The reference of an image of ours. Arguments: the root and the image's values. */}}
{{- define "zeus-operator.image" -}}
{{- $root := index . 0 -}}
{{- $image := index . 1 -}}
{{- $registry := $image.registry | default $root.Values.image.registry -}}
{{- if not $registry -}}
{{- fail (printf "image.registry is not set: say where the image %s is, e.g. --set image.registry=registry.example/zeus. This project publishes no images: build them (docs/reference/images.md) and push them to a registry of yours." $image.repository) -}}
{{- end -}}
{{- if $image.digest -}}
{{- printf "%s/%s@%s" (trimSuffix "/" $registry) $image.repository $image.digest -}}
{{- else -}}
{{- $tag := $image.tag | default $root.Values.image.tag | default $root.Chart.AppVersion -}}
{{- printf "%s/%s:%s" (trimSuffix "/" $registry) $image.repository $tag -}}
{{- end -}}
{{- end }}

{{- /* A number as programs read it: Helm's own are floats, and print as 1e+06. */}}
{{- define "zeus-operator.number" -}}
{{- if and (kindIs "float64" .) (eq (floor .) .) }}{{ int64 . }}{{ else }}{{ . }}{{ end }}
{{- end }}

{{- /* How pods are replaced. Helm adds the default's rollingUpdate to a type that may have none. */}}
{{- define "zeus-operator.update-strategy" -}}
{{- $is_rolling := eq (.type | default "RollingUpdate") "RollingUpdate" -}}
{{- toYaml (ternary . (omit . "rollingUpdate") $is_rolling) }}
{{- end }}

{{- /* A node selector in words. */}}
{{- define "zeus-operator.selector-text" -}}
{{- $parts := list -}}
{{- range $key, $value := . -}}
{{- $parts = append $parts (printf "%s=%s" $key $value) -}}
{{- end -}}
{{- join "," $parts | default "any label" -}}
{{- end }}
