//! The console's pages, from inside the binary.

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};

include!(concat!(env!("OUT_DIR"), "/console.rs"));

/// What a browser may do on a page: nothing but what this Gateway serves.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; \
                      connect-src 'self'; media-src 'self' blob:; font-src 'self'; base-uri 'none'; form-action 'none'; \
                      frame-ancestors 'none'";
/// Names of these files hold their content's hash: they never change.
const HASHED: &str = "assets/";
/// Where the page says which servers help through firewalls.
const ICE_MARK: &str = "</title>";

/// A file by its name, or that there is none.
pub(crate) fn file(name: &str) -> Response {
    let Some((_, bytes)) = FILES.iter().find(|(known, _)| *known == name) else {
        return (StatusCode::NOT_FOUND, "there is no such page").into_response();
    };
    let cache = if name.starts_with(HASHED) { "public, max-age=31536000, immutable" } else { "no-cache" };
    let mut response = (*bytes).into_response();
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(media_type(name)));
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static(cache));
    response
}

/// A page, with the ICE servers written into it, so that the player need not ask for them.
pub(crate) fn page(name: &str, ice_servers: &str) -> Response {
    let Some((_, bytes)) = FILES.iter().find(|(known, _)| *known == name) else {
        let why = "This Gateway was built without its pages: run scripts/console.sh, then build it again.\n";
        return (StatusCode::NOT_IMPLEMENTED, why).into_response();
    };
    let text = String::from_utf8_lossy(bytes);
    let escaped = ice_servers.replace('&', "&amp;").replace('"', "&quot;").replace('<', "&lt;");
    let meta = format!("{ICE_MARK}<meta name=\"muster-ice\" content=\"{escaped}\">");
    let mut response = axum::response::Html(text.replacen(ICE_MARK, &meta, 1)).into_response();
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    response
}

/// Says on every answer what a browser may do with it.
pub(crate) fn strict(response: &mut Response) {
    let headers = response.headers_mut();
    for (name, value) in [
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::X_FRAME_OPTIONS, "DENY"),
        (header::REFERRER_POLICY, "no-referrer"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    let others = "geolocation=(), camera=(), payment=(), microphone=(self), fullscreen=(self), gamepad=(self)";
    headers.insert("permissions-policy", HeaderValue::from_static(others));
    headers.insert("cross-origin-opener-policy", HeaderValue::from_static("same-origin"));
}

fn media_type(name: &str) -> &'static str {
    match name.rsplit('.').next() {
        Some("html") => "text/html; charset=utf-8",
        Some("js") => "text/javascript",
        Some("css") => "text/css",
        Some("svg") => "image/svg+xml",
        Some("png") => "image/png",
        Some("json") => "application/json",
        _ => "application/octet-stream",
    }
}
