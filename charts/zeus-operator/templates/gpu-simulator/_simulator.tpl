{{- define "zeus-operator.simulator-env" -}}
- name: GPU_SIM_STATE
  value: {{ .Values.gpuSimulator.directory }}/state
# The image asks for all GPUs; where the node's default runtime is NVIDIA's, it is to bring nothing.
- name: NVIDIA_VISIBLE_DEVICES
  value: void
{{- end }}

{{- /*
What makes the machine.  The seed is the node's own, or all nodes would have GPUs of the same UUIDs.
*/}}
{{- define "zeus-operator.simulator-machine" -}}
{{- $simulator := .Values.gpuSimulator -}}
{{- $options := list -}}
{{- range $simulator.gpus -}}
{{- $options = append $options (printf "--gpu=%s" .) -}}
{{- end -}}
{{- range $option, $value := dict "noise" $simulator.noise "tick-ms" $simulator.tickMilliseconds "time-scale" $simulator.timeScale "workload" $simulator.workload "writable-by" "root" -}}
{{- $options = append $options (printf "--%s=%s" $option (include "zeus-operator.number" $value)) -}}
{{- end -}}
number=$(printf %s "$NODE_NAME" | cksum | cut -d ' ' -f 1)
machine="{{ join " " $options }} --seed=$((number + {{ include "zeus-operator.number" $simulator.seed }}))"
{{- end }}

{{- define "zeus-operator.simulator-create" -}}
set -eu
{{ include "zeus-operator.simulator-machine" . }}
if [ "$(cat "$GPU_SIM_STATE.machine" 2>/dev/null)" = "$machine" ] && gpu-sim show; then
  exit 0
fi
rm -f "$GPU_SIM_STATE.machine"
gpu-sim create $machine
printf %s "$machine" > "$GPU_SIM_STATE.machine"
{{- end }}

{{- /* An agent that started on the machine before would go on with that one. */}}
{{- define "zeus-operator.simulator-wait" -}}
set -eu
{{ include "zeus-operator.simulator-machine" . }}
until [ "$(cat "$GPU_SIM_STATE.machine" 2>/dev/null)" = "$machine" ] && gpu-sim show; do
  echo "waiting for the pod zeus-gpu-simulator of $NODE_NAME to make: $machine"
  sleep 2
done
{{- end }}

{{- /* What the containers have in common that make, wait for and offer the GPUs. */}}
{{- define "zeus-operator.simulator-container" -}}
image: {{ include "zeus-operator.image" (list . .Values.agent.image) | quote }}
imagePullPolicy: {{ .Values.image.pullPolicy }}
env:
  - name: NODE_NAME
    valueFrom:
      fieldRef:
        fieldPath: spec.nodeName
  {{- include "zeus-operator.simulator-env" . | nindent 2 }}
resources:
  {{- toYaml .Values.gpuSimulator.resources | nindent 2 }}
securityContext:
  # Root owns the folders of the node that it writes to.
  runAsUser: 0
  runAsGroup: 0
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities:
    drop: [ALL]
  seccompProfile:
    type: RuntimeDefault
{{- end }}
