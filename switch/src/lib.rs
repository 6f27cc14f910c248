//! The data plane: workers, ports, underlays, counters.
