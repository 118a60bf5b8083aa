#!/bin/sh
# Runs Prometheus in its container, with the rules that the files in alerts/ hold for Kubernetes.
set -eu
mkdir -p /tmp/rules
for file in /observe/alerts/*.yaml; do
    # What Prometheus reads is below `spec:`.
    sed '1,/^spec:/d; s/^  //' "$file" >"/tmp/rules/${file##*/}"
done
rm -f /tmp/rules/kustomization.yaml
# Exemplars lead from a duration to its trace.
exec prometheus --config.file=/observe/prometheus.yaml --enable-feature=exemplar-storage \
    --storage.tsdb.path=/tmp/data --storage.tsdb.retention.time=1d
