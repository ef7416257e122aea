//! What lists share: how many items a page holds.

/// Items of a page where nothing is said.
pub(super) const DEFAULT_LIMIT: usize = 50;
const MAX_LIMIT: usize = 1000;

/// Reads `limit`; the error tells what would be right.
pub(super) fn read_limit(value: &str) -> Result<usize, String> {
    match value.parse() {
        Ok(n) if (1..=MAX_LIMIT).contains(&n) => Ok(n),
        _ => Err(format!("limit must be a whole number from 1 to {MAX_LIMIT}, not {value:?}")),
    }
}
