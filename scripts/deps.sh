#!/usr/bin/env bash
# Installs the peers that the tests talk to, where they are missing and we may.
set -euo pipefail

# program:package
peers=(
    ip:iproute2
    ping:iputils-ping
    iperf3:iperf3
    sockperf:sockperf
    tshark:tshark
    ethtool:ethtool
    strace:strace
    nft:nftables
    iptables:iptables
    valgrind:valgrind
    setpriv:util-linux
    script:bsdutils
    ovs-vswitchd:openvswitch-switch
    etcd:etcd-server
    etcdctl:etcd-client
    jq:jq
    curl:curl
    promtool:prometheus
    containerd:containerd
    ctr:containerd
    runc:runc
    podman:podman
    busybox:busybox-static
    /usr/lib/cni/bridge:containernetworking-plugins
)

missing=()
for peer in "${peers[@]}"; do
    PATH="$PATH:/usr/sbin:/sbin" command -v "${peer%%:*}" >/dev/null || missing+=("${peer##*:}")
done

if [ ${#missing[@]} -eq 0 ]; then
    exit 0
elif [ "${DEPS:-yes}" = no ]; then
    echo "deps: DEPS=no, so these stay missing and their tests are skipped: ${missing[*]}"
elif [ "$(id -u)" -ne 0 ]; then
    echo "deps: not root, so these stay missing and their tests are skipped: ${missing[*]}"
elif ! command -v apt-get >/dev/null; then
    echo "deps: no apt-get here; install these with this system's package manager: ${missing[*]}"
else
    echo "deps: installing ${missing[*]}"
    export DEBIAN_FRONTEND=noninteractive
    log=$(mktemp)
    trap 'rm -f "$log"' EXIT
    if ! { apt-get update && apt-get install -y --no-install-recommends "${missing[@]}"; } >"$log" 2>&1; then
        tail -n 20 "$log"
        echo "deps: installing failed; the tests that need these are skipped: ${missing[*]}"
    fi
fi
