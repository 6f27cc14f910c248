# The lab `demo`, with packets that pass.
weft testbed up examples/two-node.yaml
all_is_well() {
    for _ in {1..100}; do
        if weft testbed exec demo a -- ping -c 1 -W 1 10.244.2.2 > /dev/null; then return; fi
        sleep 0.2
    done
    return 1
}
weft testbed exec demo a -- ping -i 0.05 10.244.2.2 > /dev/null &
