{{- /* The arguments of the agent. */}}
{{- define "zeus-operator.agent-args" -}}
{{- $settings := .Values.agent.settings -}}
- serve
- --state-dir={{ .Values.agent.stateDirectory }}
- --listen={{ $settings.listenHost }}:{{ include "zeus-operator.number" $settings.port }}
- --metrics-listen={{ $settings.listenHost }}:{{ include "zeus-operator.number" $settings.metricsPort }}
- --tls-cert=/etc/zeus-agent/tls/tls.crt
- --tls-key=/etc/zeus-agent/tls/tls.key
- --node-name=$(NODE_NAME)
- --pod-resources={{ .Values.agent.kubeletDirectory }}/pod-resources
- --operator-account={{ .Release.Namespace }}:zeus-operator
- --policy=/etc/zeus-agent/policy/policy.yaml
- --poll-seconds={{ include "zeus-operator.number" $settings.pollSeconds }}
- --nvml-timeout-seconds={{ include "zeus-operator.number" $settings.nvmlTimeoutSeconds }}
- --log-format={{ $settings.logFormat }}
{{- if $settings.expectGpus }}
- --expect-gpus
{{- end }}
{{- with .Values.agent.extraArgs }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- /* What shows NVML and the GPUs to the process, by the mode. */}}
{{- define "zeus-operator.agent-nvidia-env" -}}
{{- $mode := include "zeus-operator.nvidia-mode" . -}}
{{- if eq $mode "simulator" -}}
{{- include "zeus-operator.simulator-env" . }}
{{- else if eq $mode "hostPath" -}}
- name: LD_LIBRARY_PATH
  value: /opt/nvidia/lib
- name: NVIDIA_VISIBLE_DEVICES
  value: void
{{- else -}}
- name: NVIDIA_VISIBLE_DEVICES
  value: {{ ternary .Values.agent.nvidia.cdiDevices "all" (eq $mode "cdi") | quote }}
- name: NVIDIA_DRIVER_CAPABILITIES
  value: utility
{{- end }}
{{- end }}

{{- /* Setting a limit takes CAP_SYS_ADMIN of the driver; the rest of it is for the devices. */}}
{{- define "zeus-operator.agent-security" -}}
runAsUser: 0
runAsGroup: 0
readOnlyRootFilesystem: true
{{- if .Values.agent.privileged }}
privileged: true
{{- else }}
capabilities:
  drop: [ALL]
  add: [SYS_ADMIN]
seccompProfile:
  type: RuntimeDefault
{{- end }}
{{- end }}
