//! Addresses in the answers of a proxied server, rewritten so that they lead through the proxy.
//!
//! Upstream's `k8s.io/apimachinery/pkg/util/proxy` in behaviour: the `Location` header, and the attributes of HTML that
//! hold addresses. HTML is rewritten while it streams.

use std::{io::Write, sync::Arc};

use bytes::Bytes;
use flate2::write::{DeflateDecoder, GzDecoder};
use futures::StreamExt;
use http::{Response, header};
use http_body_util::BodyExt;
use lol_html::{
    MemorySettings,
    send::{ElementContentHandlers, HtmlRewriter, Settings},
};

use crate::{Body, BodyError};

/// What attributes of which elements hold addresses.
const ATTRIBUTES: [(&str, &[&str]); 25] = [
    ("a", &["href"]),
    ("applet", &["codebase"]),
    ("area", &["href"]),
    ("audio", &["src"]),
    ("base", &["href"]),
    ("blockquote", &["cite"]),
    ("body", &["background"]),
    ("button", &["formaction"]),
    ("command", &["icon"]),
    ("del", &["cite"]),
    ("embed", &["src"]),
    ("form", &["action"]),
    ("frame", &["longdesc", "src"]),
    ("head", &["profile"]),
    ("html", &["manifest"]),
    ("iframe", &["longdesc", "src"]),
    ("img", &["longdesc", "src", "usemap"]),
    ("input", &["src", "usemap", "formaction"]),
    ("ins", &["cite"]),
    ("link", &["href"]),
    ("object", &["classid", "codebase", "data", "usemap"]),
    ("q", &["cite"]),
    ("script", &["src"]),
    ("source", &["src"]),
    ("video", &["poster", "src"]),
];

/// The longest single tag that is held while it is read.
const LONGEST_TAG: usize = 256 << 10;

/// Where the proxy is, and what it stands for.
#[derive(Clone, Debug)]
pub(crate) struct Rewriter {
    /// The path of the proxy, to be put before absolute paths.
    pub prefix: String,
    /// `host:port` of the proxied server.
    pub host: String,
    /// The host that the client has called.
    pub asked_host: String,
}

impl Rewriter {
    /// One address: those of the proxied server itself lead through the proxy, others stay as they are.
    pub(crate) fn address(&self, address: &str) -> String {
        let (path, host) = match address.find("://") {
            Some(at) if is_scheme(&address[..at]) => split_host(&address[at + 3..]),
            _ => match address.strip_prefix("//") {
                Some(rest) => split_host(rest),
                None => (address, ""),
            },
        };
        let elsewhere = !host.is_empty() && host != self.host && host != self.asked_host;
        if elsewhere || !path.starts_with('/') {
            return address.to_owned();
        }
        // An address that the client's own host stands in already leads through the proxy.
        let kept = if host.is_empty() || host != self.asked_host { "" } else { &address[..address.len() - path.len()] };
        if path.starts_with(&self.prefix) {
            return format!("{kept}{path}");
        }
        let end = path.find(['?', '#']).unwrap_or(path.len());
        let (path, rest) = path.split_at(end);
        format!("{kept}{}{}{rest}", self.prefix, cleaned(path))
    }

    /// An answer on its way to the client.
    pub(crate) fn response(&self, mut response: Response<Body>) -> Response<Body> {
        remove_cross_origin(&mut response);
        if let Some(location) = response.headers().get(header::LOCATION) {
            if let Ok(Ok(location)) = location.to_str().map(|location| self.address(location).parse()) {
                response.headers_mut().insert(header::LOCATION, location);
            }
            return response;
        }
        let text = |name: header::HeaderName| {
            response.headers().get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
        };
        if text(header::CONTENT_TYPE).split(';').next().map(str::trim) != Some("text/html") {
            return response;
        }
        let unpacked = match text(header::CONTENT_ENCODING) {
            "" | "identity" => Unpacked::Plain(Vec::new()),
            "gzip" => Unpacked::Gzip(GzDecoder::new(Vec::new())),
            "deflate" => Unpacked::Deflate(DeflateDecoder::new(Vec::new())),
            // What cannot be read is passed on as it is.
            _ => return response,
        };
        response.headers_mut().remove(header::CONTENT_ENCODING);
        response.headers_mut().remove(header::CONTENT_LENGTH);
        response.map(|body| self.html(body, unpacked))
    }

    /// HTML with its addresses rewritten, piece by piece.
    fn html(&self, body: Body, unpacked: Unpacked) -> Body {
        let state = Some((body.into_data_stream(), unpacked, Html::new(self)));
        Body::stream(futures::stream::try_unfold(state, |state| async move {
            let Some((mut pieces, mut unpacked, mut html)) = state else { return Ok::<_, BodyError>(None) };
            loop {
                match pieces.next().await {
                    None => {
                        let rest = unpacked.finish().map_err(BodyError::new)?;
                        html.write(&rest)?;
                        return Ok(Some((html.finish()?, None)));
                    }
                    Some(Err(error)) => return Err(error),
                    Some(Ok(piece)) => {
                        let plain = unpacked.write(&piece).map_err(BodyError::new)?;
                        html.write(&plain)?;
                        let ready = html.take();
                        if !ready.is_empty() {
                            return Ok(Some((ready, Some((pieces, unpacked, html)))));
                        }
                    }
                }
            }
        }))
    }
}

/// An HTML rewriter and what it has put out.
struct Html {
    rewriter: HtmlRewriter<'static, Output>,
    output: Arc<parking_lot::Mutex<Vec<u8>>>,
}

/// Collects what the rewriter puts out.
struct Output(Arc<parking_lot::Mutex<Vec<u8>>>);

impl lol_html::OutputSink for Output {
    fn handle_chunk(&mut self, chunk: &[u8]) {
        self.0.lock().extend_from_slice(chunk);
    }
}

impl Html {
    fn new(rewriter: &Rewriter) -> Self {
        let output = Arc::new(parking_lot::Mutex::new(Vec::new()));
        let handlers = ATTRIBUTES
            .iter()
            .map(|(element, attributes)| {
                let rewriter = rewriter.clone();
                let handler = move |element: &mut lol_html::send::Element<'_, '_>| {
                    for attribute in *attributes {
                        if let Some(address) = element.get_attribute(attribute) {
                            let changed = rewriter.address(&address);
                            if changed != address {
                                element.set_attribute(attribute, &changed)?;
                            }
                        }
                    }
                    Ok(())
                };
                let selector = element.parse().expect("the name of an element is a selector");
                (std::borrow::Cow::Owned(selector), ElementContentHandlers::default().element(handler))
            })
            .collect();
        let settings = Settings {
            element_content_handlers: handlers,
            memory_settings: MemorySettings { max_allowed_memory_usage: LONGEST_TAG, ..MemorySettings::default() },
            strict: false,
            ..Settings::new_send()
        };
        Self { rewriter: HtmlRewriter::new(settings, Output(Arc::clone(&output))), output }
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), BodyError> {
        if bytes.is_empty() { Ok(()) } else { self.rewriter.write(bytes).map_err(BodyError::new) }
    }

    fn take(&mut self) -> Bytes {
        Bytes::from(std::mem::take(&mut *self.output.lock()))
    }

    fn finish(self) -> Result<Bytes, BodyError> {
        self.rewriter.end().map_err(BodyError::new)?;
        Ok(Bytes::from(std::mem::take(&mut *self.output.lock())))
    }
}

/// The bytes before their content encoding.
enum Unpacked {
    Plain(Vec<u8>),
    Gzip(GzDecoder<Vec<u8>>),
    Deflate(DeflateDecoder<Vec<u8>>),
}

impl Unpacked {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<Vec<u8>> {
        let out = match self {
            Self::Plain(out) => {
                out.extend_from_slice(bytes);
                out
            }
            Self::Gzip(decoder) => {
                decoder.write_all(bytes)?;
                decoder.get_mut()
            }
            Self::Deflate(decoder) => {
                decoder.write_all(bytes)?;
                decoder.get_mut()
            }
        };
        Ok(std::mem::take(out))
    }

    fn finish(self) -> std::io::Result<Vec<u8>> {
        match self {
            Self::Plain(out) => Ok(out),
            Self::Gzip(decoder) => decoder.finish(),
            Self::Deflate(decoder) => decoder.finish(),
        }
    }
}

/// What a proxied server lets other origins do is not for this server to promise.
fn remove_cross_origin(response: &mut Response<Body>) {
    for name in [
        header::ACCESS_CONTROL_ALLOW_CREDENTIALS,
        header::ACCESS_CONTROL_ALLOW_HEADERS,
        header::ACCESS_CONTROL_ALLOW_METHODS,
        header::ACCESS_CONTROL_ALLOW_ORIGIN,
    ] {
        response.headers_mut().remove(name);
    }
}

fn is_scheme(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'-' | b'.'))
}

/// The path and the host of what follows `//`.
fn split_host(rest: &str) -> (&str, &str) {
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    (&rest[end..], &rest[..end])
}

/// A path without empty and dot segments, so that nothing leads above the proxy.
fn cleaned(path: &str) -> String {
    let mut segments: Vec<&str> = Vec::new();
    for segment in path.split('/') {
        match segment {
            "" | "." => {}
            ".." => {
                segments.pop();
            }
            segment => segments.push(segment),
        }
    }
    let mut clean = String::with_capacity(path.len());
    for segment in &segments {
        clean.push('/');
        clean.push_str(segment);
    }
    if path.ends_with('/') {
        clean.push('/');
    }
    clean
}

#[cfg(test)]
mod tests {
    use super::*;

    const PREFIX: &str = "/api/v1/namespaces/a/pods/p/proxy";

    fn rewriter() -> Rewriter {
        Rewriter { prefix: PREFIX.to_owned(), host: "10.0.0.1:80".to_owned(), asked_host: "localhost:8001".to_owned() }
    }

    #[test]
    fn addresses() {
        let check = |address: &str, expected: &str| {
            assert_eq!(rewriter().address(address), expected.replace("PREFIX", PREFIX), "{address}");
        };
        check("/rewriteme", "PREFIX/rewriteme");
        check("/a/b/?x=/y#z", "PREFIX/a/b/?x=/y#z");
        check("/", "PREFIX/");
        check("/../../x", "PREFIX/x");
        check("relative/x", "relative/x");
        check("?x", "?x");
        check("#x", "#x");
        check("mailto:somebody@example.com", "mailto:somebody@example.com");
        check("http://10.0.0.1:80/x", "PREFIX/x");
        check("//10.0.0.1:80/x", "PREFIX/x");
        check("http://localhost:8001/x", "http://localhost:8001PREFIX/x");
        check("https://example.com/x", "https://example.com/x");
        check(&format!("{PREFIX}/x"), "PREFIX/x");
    }

    async fn rewritten(html: &str, encoding: Option<&str>) -> String {
        let bytes = match encoding {
            Some("gzip") => crate::compress::whole(html.as_bytes()).expect("gzip"),
            _ => html.as_bytes().to_vec(),
        };
        // In small pieces, as a network would bring them.
        let pieces: Vec<Bytes> = bytes.chunks(7).map(Bytes::copy_from_slice).collect();
        let mut response = Response::builder().header("content-type", "text/html; charset=utf-8");
        if let Some(encoding) = encoding {
            response = response.header("content-encoding", encoding);
        }
        let response = rewriter().response(response.body(Body::pieces(pieces)).expect("a response"));
        let bytes = response.into_body().collect().await.expect("a body").to_bytes();
        String::from_utf8(bytes.to_vec()).expect("text")
    }

    #[tokio::test]
    async fn html_streams() {
        let page = r#"<!doctype html><p class='x'>t &amp; u</p><a href="/rewriteme">test</a><img src=/i.png><script>a<b</script>"#;
        let expected = page
            .replace("\"/rewriteme\"", &format!("\"{PREFIX}/rewriteme\""))
            .replace("src=/i.png", &format!("src=\"{PREFIX}/i.png\""));
        assert_eq!(rewritten(page, None).await, expected);
        assert_eq!(rewritten(page, Some("gzip")).await, expected);
        assert_eq!(rewritten(page, Some("br")).await, page, "what cannot be read is passed on");
    }

    #[test]
    fn locations() {
        let response = Response::builder()
            .status(302)
            .header("location", "/x")
            .header("access-control-allow-origin", "*")
            .body(Body::empty())
            .expect("a response");
        let response = rewriter().response(response);
        assert_eq!(response.headers()["location"], format!("{PREFIX}/x"));
        assert!(!response.headers().contains_key("access-control-allow-origin"));
    }
}
