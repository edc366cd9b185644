//! A file of an http server: the same connections, certificates and limits as for registries.

use std::{fs::File, io::Write};

use hyper::{
    Method, StatusCode, Uri,
    body::Bytes,
    header::{self, HeaderMap, HeaderValue},
};

use super::{
    http::{Http, HttpError},
    settings::Registries,
};
use crate::image::ImageError;

/// Nobody adds more to an image by mistake.
const LARGEST: u64 = 16 << 30;

/// What the server said of the file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Download {
    /// It is still what `etag` stood for; nothing was written.
    pub unchanged: bool,
    pub etag: Option<String>,
    /// As the header has it.
    pub last_modified: Option<String>,
    /// Of `Content-Disposition`.
    pub name: Option<String>,
}

/// Writes the file at `url` to `into`, unless it is still that of `etag`.
pub async fn download(url: &str, etag: Option<&str>, into: &mut File) -> Result<Download, ImageError> {
    let cannot = |why: String| ImageError::Remote {
        message: format!("cannot fetch `{url}`: {why}"),
        help: Vec::new(),
    };
    let uri: Uri = url.parse().map_err(|_| cannot("it is no address".to_owned()))?;
    let http = Http::new(Registries::from_environment()?);
    let mut headers = HeaderMap::new();
    if let Some(value) = etag.and_then(|etag| HeaderValue::from_str(etag).ok()) {
        headers.insert(header::IF_NONE_MATCH, value);
    }
    let broken = |error: HttpError| cannot(error.text());
    let response = http.send(Method::GET, uri, &headers, Bytes::new()).await.map_err(broken)?;
    let status = response.status();
    if status == StatusCode::NOT_MODIFIED && etag.is_some() {
        return Ok(Download { unchanged: true, ..Download::default() });
    }
    if !status.is_success() {
        return Err(cannot(format!("the server answered {status}")));
    }
    let text = |name| response.headers().get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
    let told = Download {
        unchanged: false,
        etag: text(header::ETAG),
        last_modified: text(header::LAST_MODIFIED),
        name: text(header::CONTENT_DISPOSITION).as_deref().and_then(file_name),
    };
    let announced = text(header::CONTENT_LENGTH).and_then(|length| length.parse::<u64>().ok());
    let mut length = 0u64;
    let mut body = response.into_body();
    while let Some(data) = http.next_chunk(&mut body).await.map_err(broken)? {
        length += data.len() as u64;
        if length > LARGEST {
            return Err(cannot(format!("it is larger than {LARGEST} bytes")));
        }
        into.write_all(&data).map_err(|error| cannot(error.to_string()))?;
    }
    if announced.is_some_and(|announced| announced != length) {
        return Err(cannot(format!("it ended after {length} bytes")));
    }
    Ok(told)
}

/// `attachment; filename="x.tar"`; a name with a directory is none.
fn file_name(header: &str) -> Option<String> {
    let field = header.split(';').map(str::trim).find_map(|field| field.strip_prefix("filename="))?;
    let name = field.trim_matches('"');
    (!name.is_empty() && !name.contains('/') && name != "." && name != "..").then(|| name.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_servers_name_for_a_file_is_no_path() {
        assert_eq!(file_name("attachment; filename=\"a b.tar\"").as_deref(), Some("a b.tar"));
        assert_eq!(file_name("attachment; filename=x"), Some("x".into()));
        assert_eq!(file_name("attachment; filename=\"../x\""), None);
        assert_eq!(file_name("inline"), None);
    }
}
