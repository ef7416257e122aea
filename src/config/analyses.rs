//! `analyses`: from a checked tree to [`Analysis`]. Reads certificates through the load's reader; calls nothing.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use super::decode::Decoder;
use super::fields::Fields;
use super::model::Analysis;
use super::yaml::Node;
use super::{auth, params, shape, tls, webhook};
use crate::limits;

const BOUNDS: (Duration, Duration) = (Duration::from_millis(1), Duration::from_secs(3600));
const TIMEOUT: Duration = Duration::from_secs(30);

/// Reads `analyses` of the root mapping.
pub fn decode(d: &mut Decoder<'_>, root: &Fields<'_>, allow_http: bool) -> Vec<Arc<Analysis>> {
    let Some(node) = root.get("analyses") else { return Vec::new() };
    let items = d.list(node).unwrap_or_default();
    if items.len() > limits::ANALYSES {
        let help = "one call may answer several things: its whole answer is kept".to_owned();
        d.problem(node.span, format!("more than {} analyses", limits::ANALYSES), Some(help));
    }
    let mut known = BTreeSet::new();
    items.iter().filter_map(|item| one(d, item, allow_http, &mut known)).map(Arc::new).collect()
}

fn one(d: &mut Decoder<'_>, node: &Node, allow_http: bool, known: &mut BTreeSet<String>) -> Option<Analysis> {
    let fields = d.fields(node, &shape::ANALYSIS, None)?;
    let named = fields.require(d, "name", "`name: summary`").and_then(|n| d.text(n).map(|text| (n, text)));
    if let Some((node, name)) = &named {
        if name.is_empty() || name.len() > limits::NAME_BYTES || name.chars().any(char::is_control) {
            let help = "write a word such as summary, without line breaks".to_owned();
            d.problem(node.span, format!("{} is no name for an analysis", d.quote(node)), Some(help));
        } else if !known.insert(name.clone()) {
            let message = format!("the analysis {} is there twice", d.quote(node));
            d.problem(node.span, message, Some("give each a name of its own".to_owned()));
        }
    }
    let address = fields.require(d, "url", "`url: https://…`");
    let url = address
        .and_then(|n| webhook::url(d, n, allow_http, webhook::INTO_AUTH).map(|url| (webhook::shown_url(n, &url), url)));
    let params = params::plain(d, &fields);
    let headers = webhook::headers(d, &fields, &[]);
    let auth = auth::decode(d, &fields, &headers, allow_http);
    let timeout = fields.duration(d, "timeout", TIMEOUT, BOUNDS);
    let tls = tls::decode(d, &fields);
    let ((_, name), (shown_url, url)) = (named?, url?);
    Some(Analysis { name: Arc::from(name), url, shown_url, params, headers, timeout, tls, auth })
}
