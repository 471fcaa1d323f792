//! As much HTTP as a scrape needs: one request, one answer, and the connection is over.

use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::limits::{SCRAPE_BYTES_MAX, SCRAPE_MS_MAX};

/// What is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Answer {
    Metrics { has_body: bool },
    Pointer,
    BadRequest,
    NotFound,
    WrongMethod,
    TooLong,
}

impl Answer {
    const fn status(self) -> &'static str {
        match self {
            Self::Metrics { .. } | Self::Pointer => "200 OK",
            Self::BadRequest => "400 Bad Request",
            Self::NotFound => "404 Not Found",
            Self::WrongMethod => "405 Method Not Allowed",
            Self::TooLong => "431 Request Header Fields Too Large",
        }
    }

    fn head(self, len: usize) -> String {
        let kind = match self {
            Self::Metrics { .. } => "text/plain; version=0.0.4; charset=utf-8",
            _ => "text/plain; charset=utf-8",
        };
        let status = self.status();
        format!(
            "HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {len}\r\n\
             Connection: close\r\n\r\n"
        )
    }
}

/// What to say to a request, as far as it came; `None` while its head is not whole.
fn answer(request: &[u8]) -> Option<Answer> {
    let Some(end) = request.windows(4).position(|bytes| bytes == b"\r\n\r\n") else {
        return (request.len() >= SCRAPE_BYTES_MAX).then_some(Answer::TooLong);
    };
    let head = str::from_utf8(&request[..end]).unwrap_or_default();
    let mut words = head.lines().next().unwrap_or_default().split(' ');
    let (Some(method), Some(target), Some(version), None) =
        (words.next(), words.next(), words.next(), words.next())
    else {
        return Some(Answer::BadRequest);
    };
    if !version.starts_with("HTTP/1.") {
        return Some(Answer::BadRequest);
    }
    let path = target.split('?').next().unwrap_or_default();
    Some(match (method, path) {
        ("GET", "/metrics") => Answer::Metrics { has_body: true },
        ("HEAD", "/metrics") => Answer::Metrics { has_body: false },
        ("GET", "/") => Answer::Pointer,
        ("GET" | "HEAD", _) => Answer::NotFound,
        _ => Answer::WrongMethod,
    })
}

/// Serves one connection, with a deadline for all of it. Who does not keep to it is cut off.
pub(crate) async fn serve(stream: TcpStream, metrics: impl Fn() -> String) {
    let deadline = Duration::from_millis(SCRAPE_MS_MAX);
    let served = tokio::time::timeout(deadline, converse(stream, metrics)).await;
    if let Ok(Err(error)) = served {
        tracing::debug!(target: "shmesh::node", %error, "a scrape broke off");
    }
}

async fn converse(mut stream: TcpStream, metrics: impl Fn() -> String) -> std::io::Result<()> {
    let mut request = vec![0; SCRAPE_BYTES_MAX];
    let mut len = 0;
    let answer = loop {
        if let Some(answer) = answer(&request[..len]) {
            break answer;
        }
        match stream.read(&mut request[len..]).await? {
            0 => return Ok(()),
            count => len += count,
        }
    };
    let body = match answer {
        Answer::Metrics { .. } => metrics(),
        Answer::Pointer => "shmesh: /metrics has what nodes of this host count\n".into(),
        _ => format!("{}\n", answer.status()),
    };
    stream.write_all(answer.head(body.len()).as_bytes()).await?;
    if answer != (Answer::Metrics { has_body: false }) {
        stream.write_all(body.as_bytes()).await?;
    }
    stream.shutdown().await?;
    // Closing with something unread would reset the connection, and with it the answer.
    while stream.read(&mut request).await? > 0 {}
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_answered_by_their_first_line() {
        let got = Answer::Metrics { has_body: true };
        for (request, expected) in [
            ("GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n", Some(got)),
            ("GET /metrics?a=b HTTP/1.0\r\n\r\n", Some(got)),
            (
                "HEAD /metrics HTTP/1.1\r\n\r\n",
                Some(Answer::Metrics { has_body: false }),
            ),
            ("GET / HTTP/1.1\r\n\r\n", Some(Answer::Pointer)),
            ("GET /other HTTP/1.1\r\n\r\n", Some(Answer::NotFound)),
            ("POST /metrics HTTP/1.1\r\n\r\n", Some(Answer::WrongMethod)),
            ("GET /metrics\r\n\r\n", Some(Answer::BadRequest)),
            ("GET /metrics HTTP/2\r\n\r\n", Some(Answer::BadRequest)),
            ("GET a b HTTP/1.1\r\n\r\n", Some(Answer::BadRequest)),
            ("\r\n\r\n", Some(Answer::BadRequest)),
            ("GET /metrics HTTP/1.1\r\nHost: x\r\n", None),
            ("", None),
        ] {
            assert_eq!(answer(request.as_bytes()), expected, "{request:?}");
        }
        assert_eq!(answer(b"\xff\xfe \r\n\r\n"), Some(Answer::BadRequest));
    }

    #[test]
    fn endless_heads_are_cut_at_the_limit() {
        let head = vec![b'x'; SCRAPE_BYTES_MAX];
        assert_eq!(answer(&head[1..]), None);
        assert_eq!(answer(&head), Some(Answer::TooLong));
    }
}
