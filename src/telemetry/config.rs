//! Facts that `config` and `reload` state.
