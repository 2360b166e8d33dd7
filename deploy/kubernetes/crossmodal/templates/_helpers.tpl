{{- define "crossmodal.name" -}}
{{- if contains .Chart.Name .Release.Name }}{{ .Release.Name | trunc 50 | trimSuffix "-" }}{{ else }}{{ printf "%s-%s" .Release.Name .Chart.Name | trunc 50 | trimSuffix "-" }}{{ end }}
{{- end }}

{{- define "crossmodal.selector" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "crossmodal.labels" -}}
{{ include "crossmodal.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end }}

{{- define "crossmodal.secret" -}}
{{- if .Values.secret.existing }}{{ .Values.secret.existing }}{{ else if .Values.secret.values }}{{ include "crossmodal.name" . }}{{ end }}
{{- end }}

{{- define "crossmodal.claim" -}}
{{- .Values.index.claim.existing | default (printf "%s-index" (include "crossmodal.name" .)) }}
{{- end }}

{{- define "crossmodal.store" -}}
{{- if eq .Values.index.from "store" }}
{{- if not .Values.index.store }}{{ fail "index.from=store needs index.store: milvus://HOST:PORT/NAME" }}{{ end }}
{{- .Values.index.store }}
{{- end }}
{{- end }}

{{- define "crossmodal.podSecurity" -}}
runAsNonRoot: true
runAsUser: 10001
runAsGroup: 10001
fsGroup: 10001
fsGroupChangePolicy: OnRootMismatch  # else each mount changes every file of a large index
seccompProfile: {type: RuntimeDefault}
{{- end }}

{{- define "crossmodal.security" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end }}

{{- define "crossmodal.mounts" -}}
{{- range $number, $mount := .Values.mounts }}
- {name: more-{{ $number }}, mountPath: {{ required "mounts: mountPath" $mount.mountPath }}, readOnly: true}
{{- end }}
{{- end }}

{{- define "crossmodal.volumes" -}}
{{- range $number, $mount := .Values.mounts }}
- {name: more-{{ $number }}, persistentVolumeClaim: {claimName: {{ required "mounts: claim" $mount.claim }}, readOnly: true}}
{{- end }}
{{- end }}

{{- /* (dict "image" … "version" …) */ -}}
{{- define "crossmodal.image" -}}
{{- if .image.digest }}{{ .image.repository }}@{{ .image.digest }}{{ else }}{{ .image.repository }}:{{ .image.tag | default .version }}{{ end }}
{{- end }}
