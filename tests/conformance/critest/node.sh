# Sourced by `run` in fresh network, mount, IPC and PID namespaces: the container side of one Kubernetes node. A registry
# with the images, bridge networking by Debian's CNI plugins, and a containerd of its own that runs pods by `casemate`
# under its runc shim (handler casemate-oci), or by runc.
#   start_node FOLDER LOGS   returns when the CRI answers; sets $endpoint and CRI_CONFIG_FILE
#   stop_cgroups             from outside, when the namespaces have gone: removes the pods' cgroups, which outlive them

start_node() {
    local folder=$1 logs=$2
    ip link set lo up
    mount -t tmpfs none /run # what CNI and runtimes write there ends with the namespace
    mkdir -p /run/netns /run/lock "$logs" "$folder"/{cni,registries/_default}
    echo 1 >/proc/sys/net/ipv4/ip_forward

    "$here/images.py" serve "$CRITEST_WORK/images" 5000 &
    echo 'server = "http://127.0.0.1:5000"' >"$folder/registries/_default/hosts.toml"
    cat >"$folder/cni/pods.conflist" <<END
{
  "cniVersion": "0.4.0",
  "name": "pods",
  "plugins": [
    {
      "type": "bridge", "bridge": "pods0", "isGateway": true, "ipMasq": true, "hairpinMode": true,
      "ipam": {
        "type": "host-local", "dataDir": "$folder/addresses",
        "ranges": [[{"subnet": "10.88.0.0/16"}]], "routes": [{"dst": "0.0.0.0/0"}]
      }
    },
    {"type": "portmap", "capabilities": {"portMappings": true}}
  ]
}
END
    # Without CAP_SYS_RESOURCE nobody may lower an OOM score: containerd is to leave it where it is.
    cat >"$folder/containerd.toml" <<END
version = 3
root = "$folder/root"
state = "$folder/state"
[grpc]
address = "$folder/containerd.sock"
[plugins."io.containerd.cri.v1.images"]
pinned_images = { sandbox = "localhost/sandbox/pause:1" }
registry = { config_path = "$folder/registries" }
[plugins."io.containerd.cri.v1.runtime"]
restrict_oom_score_adj = true
cni = { bin_dirs = ["/usr/lib/cni"], conf_dir = "$folder/cni" }
[plugins."io.containerd.cri.v1.runtime".containerd]
default_runtime_name = "casemate-oci"
[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.casemate-oci]
runtime_type = "io.containerd.runc.v2"
options = { BinaryName = "$CRITEST_CASEMATE", Root = "$folder/casemate" }
[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"
END
    containerd --config "$folder/containerd.toml" >"$logs/containerd.log" 2>&1 &
    endpoint=unix://$folder/containerd.sock
    export CRI_CONFIG_FILE=$folder/crictl.yaml
    echo "runtime-endpoint: $endpoint" >"$CRI_CONFIG_FILE"
    local try
    for try in $(seq 150); do
        crictl info >"$logs/info.json" 2>/dev/null && curl -so /dev/null http://127.0.0.1:5000/v2/ && return
        sleep 0.2
    done
    echo "critest: containerd does not answer:" >&2
    tail -5 "$logs/containerd.log" >&2
    return 1
}

stop_cgroups() {
    local try left
    for try in $(seq 50); do # the last processes leave theirs a moment later
        left=$(find /sys/fs/cgroup -depth -type d \( -path '*/k8s.io*' -o -path '*/kubepods*' \))
        [ -n "$left" ] || return 0
        xargs -d '\n' rmdir <<<"$left" 2>/dev/null || sleep 0.1
    done
    echo "left behind: cgroup $left"
    return 1
}
