//! What the switch decides: tables, FDB and forward(), pure.
