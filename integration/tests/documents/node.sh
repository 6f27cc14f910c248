# A node of a cluster, as it stands after an installation: an agent, the pods a and b, and another node, which has pod c.
# What is written below these folders goes away with the shell.
for folder in etc opt var; do
    mkdir -p /run/over/$folder/upper /run/over/$folder/work
    over="lowerdir=/$folder,upperdir=/run/over/$folder/upper,workdir=/run/over/$folder/work"
    mount -t overlay overlay -o "$over" /$folder
done
ip link set lo up
# Where a store of the pages listens.
ip address add 10.0.0.1/32 dev lo
ip netns add n2
ip link add eth0 type veth peer name eth0 netns n2
ip address add 192.0.2.1/24 dev eth0
ip link set eth0 up
ip -n n2 address add 192.0.2.2/24 dev eth0
ip -n n2 link set eth0 up
echo 1 > /proc/sys/net/ipv4/ip_forward
for pod in a b c; do ip netns add $pod; done
configuration() {
    cat <<END
node = "$1"
run_dir = "$2"
keeper = "off"
metrics = {listen = "127.0.0.1:9469"}
underlay = {addresses = ["$3"]}
control = {stores = ["http://192.0.2.1:2379"]}
network = {vni = 100, ranges = ["10.244.0.0/16"]}
vni = [{id = 100}]
END
}
port() {
    echo "[[port]]"
    echo "name = \"$1\""
    echo "netns = \"$1\""
    echo "vni = 100"
    echo "addresses = [\"$2/16\"]"
}
mkdir -p /etc/weft /var/lib/weft
{ configuration n1 /run/weft 192.0.2.1; port a 10.244.0.11; port b 10.244.0.12; } > /etc/weft/agent.toml
{ configuration n2 /run/n2 192.0.2.2; port c 10.244.0.13; } > /etc/weft/n2.toml
weft store --relaxed --data /var/lib/weft/rows --listen 192.0.2.1:2379 > /tmp/rows.log 2>&1 &
weft agent --config /etc/weft/agent.toml 2> /tmp/n1.log &
ip netns exec n2 ip link set lo up
ip netns exec n2 weft agent --config /etc/weft/n2.toml 2> /tmp/n2.log &
all_is_well() {
    for _ in {1..100}; do
        if ip netns exec a ping -c 1 -W 1 10.244.0.13 > /dev/null; then return; fi
        sleep 0.2
    done
    return 1
}
all_is_well
ip netns exec a ping -i 0.05 10.244.0.13 > /dev/null &
