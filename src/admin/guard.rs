//! Who may ask: bearer token, known host names, and no state change on behalf of a foreign web page.

use std::net::IpAddr;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::Response;
use http::{HeaderMap, Method, StatusCode, header};

use super::Admin;
use super::problem::problem;
use crate::secret::Secret;

/// Checks a request to `/` or `/api` before it reaches its handler. `/live`, `/ready` and `/metrics` do not pass here.
pub(super) async fn check(State(admin): State<Admin>, request: Request<Body>, next: Next) -> Response {
    let verdict = {
        let generation = admin.generations.borrow();
        let settings = &generation.settings.admin;
        let method = request.method();
        host(request.headers(), request.uri().host(), &settings.hosts)
            .and_then(|()| origin(method, request.headers()))
            .and_then(|()| token(request.headers(), settings.token.as_ref()))
    };
    match verdict {
        Ok(()) => next.run(request).await,
        Err(refused) => *refused,
    }
}

fn host(headers: &HeaderMap, authority: Option<&str>, known: &[String]) -> Result<(), Box<Response>> {
    let named = headers.get(header::HOST).and_then(|v| v.to_str().ok()).or(authority).unwrap_or_default();
    let name = without_port(named);
    let loopback = name.eq_ignore_ascii_case("localhost") || name.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback());
    if loopback || known.iter().any(|k| k.eq_ignore_ascii_case(name) || k.eq_ignore_ascii_case(named)) {
        return Ok(());
    }
    let detail = format!("the host {name:?} is neither loopback nor in admin.hosts");
    Err(Box::new(problem(StatusCode::FORBIDDEN, "unknown host", &detail)))
}

fn without_port(host: &str) -> &str {
    if let Some(rest) = host.strip_prefix('[') {
        return rest.split(']').next().unwrap_or(rest);
    }
    host.rsplit_once(':').map_or(host, |(name, _)| name)
}

fn origin(method: &Method, headers: &HeaderMap) -> Result<(), Box<Response>> {
    if matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS) {
        return Ok(());
    }
    let text = |name: &str| headers.get(name).and_then(|v| v.to_str().ok());
    let foreign_site = text("sec-fetch-site").is_some_and(|site| site.eq_ignore_ascii_case("cross-site"));
    let host = text("host").unwrap_or_default();
    let foreign_origin = text("origin").is_some_and(|origin| {
        origin.split_once("://").is_none_or(|(_, authority)| !authority.eq_ignore_ascii_case(host))
    });
    if foreign_site || foreign_origin {
        let detail = "a page of another site may not change anything here";
        return Err(Box::new(problem(StatusCode::FORBIDDEN, "foreign origin", detail)));
    }
    Ok(())
}

fn token(headers: &HeaderMap, token: Option<&Secret>) -> Result<(), Box<Response>> {
    let Some(token) = token else { return Ok(()) };
    let shown = headers.get(header::AUTHORIZATION).and_then(|v| v.to_str().ok()).and_then(|v| v.split_once(' '));
    if shown.is_some_and(|(scheme, t)| scheme.eq_ignore_ascii_case("bearer") && token.matches(t.trim())) {
        return Ok(());
    }
    let detail = "the admin API wants the header \"Authorization: Bearer TOKEN\" with admin.token";
    let mut response = problem(StatusCode::UNAUTHORIZED, "not authorized", detail);
    response.headers_mut().insert(header::WWW_AUTHENTICATE, http::HeaderValue::from_static("Bearer"));
    Err(Box::new(response))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        pairs.iter().map(|(k, v)| (http::HeaderName::from_static(k), http::HeaderValue::from_static(v))).collect()
    }

    #[test]
    fn hosts_are_loopback_or_known() {
        let known = vec!["sidehook.internal".to_owned()];
        for (name, ok) in [
            ("127.0.0.1:7071", true),
            ("localhost", true),
            ("[::1]:7071", true),
            ("sidehook.internal:80", true),
            ("evil.example", false),
            ("127.0.0.1.evil.example", false),
            ("", false),
        ] {
            assert_eq!(host(&headers(&[("host", name)]), None, &known).is_ok(), ok, "{name}");
        }
    }

    #[test]
    fn foreign_pages_change_nothing() {
        for (method, pairs, ok) in [
            (Method::POST, &[("host", "localhost:1")][..], true),
            (Method::POST, &[("host", "localhost:1"), ("origin", "http://localhost:1")], true),
            (Method::POST, &[("host", "localhost:1"), ("origin", "http://localhost:2")], false),
            (Method::POST, &[("host", "localhost:1"), ("origin", "null")], false),
            (Method::POST, &[("host", "localhost:1"), ("sec-fetch-site", "cross-site")], false),
            (Method::GET, &[("host", "localhost:1"), ("origin", "http://evil.example")], true),
        ] {
            assert_eq!(origin(&method, &headers(pairs)).is_ok(), ok, "{method} {pairs:?}");
        }
    }

    #[test]
    fn tokens_are_compared_whole() {
        let secret = Secret::new("abc");
        assert!(token(&HeaderMap::new(), None).is_ok());
        for (shown, ok) in [("Bearer abc", true), ("bearer abc", true), ("Bearer ab", false), ("Basic abc", false)] {
            assert_eq!(token(&headers(&[("authorization", shown)]), Some(&secret)).is_ok(), ok, "{shown}");
        }
    }
}
