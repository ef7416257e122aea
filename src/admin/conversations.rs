//! `/api/v1/conversations`: list.

use axum::Json;
use axum::extract::{RawQuery, State};
use axum::response::{IntoResponse as _, Response};

use super::Admin;
use super::pages::{DEFAULT_LIMIT, read_limit};
use super::problem::{bad_request, failed};
use crate::outbox::OutboxError;

pub(super) async fn list(State(admin): State<Admin>, RawQuery(query): RawQuery) -> Response {
    let (mut open, mut cursor, mut limit) = (None, None, DEFAULT_LIMIT);
    for (key, value) in form_urlencoded::parse(query.unwrap_or_default().as_bytes()) {
        let set = match (&*key, &*value) {
            ("cursor", _) => {
                cursor = Some(value.into_owned());
                Ok(())
            }
            ("limit", _) => read_limit(&value).map(|n| limit = n),
            ("state", "open" | "ended") => {
                open = Some(value == "open");
                Ok(())
            }
            ("state", _) => Err(format!("state must be open or ended, not {value:?}")),
            _ => Err(format!("unknown filter {key:?}; there are state, limit, cursor")),
        };
        if let Err(reason) = set {
            return bad_request(&reason);
        }
    }
    match admin.outbox.conversations(open, cursor.as_deref(), limit).await {
        Ok(page) => Json(page).into_response(),
        Err(error @ OutboxError::BadCursor) => bad_request(&error.to_string()),
        Err(error) => failed(&error),
    }
}
