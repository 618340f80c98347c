//! `/logs/`: files and folders below the machine's `/var/log`, as a kubelet's file server shows them.

use std::io;
use std::path::{Path, PathBuf};

use futures::StreamExt;
use http::Response;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use tokio_util::io::ReaderStream;

use super::{Body, Refusal, full};

enum Found {
    Folder(String),
    File(std::fs::File),
}

/// Answers with a file or a folder's list.
pub async fn serve(root: &Path, below: &[&str]) -> Result<Response<Body>, Refusal> {
    if below.iter().any(|part| *part == ".." || part.contains(['/', '\0'])) {
        return Err(Refusal::not_found("404 page not found"));
    }
    let path: PathBuf = [root].into_iter().chain(below.iter().map(Path::new)).collect();
    let found = tokio::task::spawn_blocking(move || look(&path)).await;
    let found = found.map_err(|error| Refusal::internal(error.to_string()))?;
    let (kind, body) = match found {
        Ok(Found::Folder(list)) => ("text/html; charset=utf-8", full(list)),
        Ok(Found::File(file)) => {
            let blocks = ReaderStream::new(tokio::fs::File::from_std(file));
            ("text/plain; charset=utf-8", BodyExt::boxed(StreamBody::new(blocks.map(|block| block.map(Frame::data)))))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(Refusal::not_found("404 page not found")),
        Err(error) => return Err(Refusal::internal(error.to_string())),
    };
    let mut response = Response::new(body);
    response.headers_mut().insert(http::header::CONTENT_TYPE, http::HeaderValue::from_static(kind));
    Ok(response)
}

/// Opens a file or lists a folder. What is neither, a pipe for example, would never end.
fn look(path: &Path) -> io::Result<Found> {
    let metadata = std::fs::metadata(path)?;
    if metadata.is_file() {
        return Ok(Found::File(std::fs::File::open(path)?));
    }
    if !metadata.is_dir() {
        return Err(io::ErrorKind::NotFound.into());
    }
    let mut names = Vec::new();
    for entry in std::fs::read_dir(path)? {
        let entry = entry?;
        let slash = if entry.path().is_dir() { "/" } else { "" };
        names.push(format!("{}{slash}", entry.file_name().to_string_lossy()));
    }
    names.sort();
    let mut list = "<!doctype html>\n<meta name=\"viewport\" content=\"width=device-width\">\n<pre>\n".to_owned();
    for name in names {
        let text = name.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&#34;");
        let link = percent_encoding::utf8_percent_encode(&name, &LINK);
        list.push_str(&format!("<a href=\"{link}\">{text}</a>\n"));
    }
    list.push_str("</pre>\n");
    Ok(Found::Folder(list))
}

/// What a link's path may have as it is.
const LINK: percent_encoding::AsciiSet =
    percent_encoding::NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~').remove(b'/');

#[cfg(test)]
mod tests {
    use super::*;

    async fn get(root: &Path, below: &[&str]) -> Result<String, u16> {
        let answer = serve(root, below).await.map_err(|Refusal(status, _)| status.as_u16())?;
        let body = answer.into_body().collect().await.expect("a body").to_bytes();
        Ok(String::from_utf8(body.to_vec()).expect("text"))
    }

    #[tokio::test]
    async fn files_and_folders() {
        let folder = tempfile::tempdir().expect("a folder");
        let root = folder.path().join("log");
        std::fs::create_dir_all(root.join("pods")).expect("made");
        std::fs::write(root.join("a <b>.log"), "one\ntwo\n").expect("written");
        std::fs::write(folder.path().join("secret"), "no").expect("written");
        let list = get(&root, &[]).await.expect("a list");
        assert!(
            list.contains("<a href=\"a%20%3Cb%3E.log\">a &lt;b&gt;.log</a>\n<a href=\"pods/\">pods/</a>"),
            "{list}"
        );
        assert_eq!(get(&root, &["a <b>.log"]).await.as_deref(), Ok("one\ntwo\n"));
        assert_eq!(get(&root, &["none"]).await, Err(404));
        assert_eq!(get(&root, &["..", "secret"]).await, Err(404));
        assert_eq!(get(&root, &["../secret"]).await, Err(404));
    }
}
