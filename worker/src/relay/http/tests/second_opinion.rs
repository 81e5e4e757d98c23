//! A second opinion on where messages end: that of `hyper`, which reads the same bytes.

use std::convert::Infallible;
use std::future::{Future, poll_fn};
use std::io;
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};

use hyper::body::{Body as _, Frame, Incoming, SizeHint};
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper::service::service_fn;
use hyper::{Request as HyperRequest, Response};
use proptest::prelude::*;

use super::cuts::{ANSWER_PARTS, ANSWERS, PARTS, REQUESTS, asked, config, nearly};
use super::*;

/// The other end of a connection: it sends these bytes, then ends its side, and reads everything.
struct Bytes {
    bytes: Vec<u8>,
    /// Whether it sends nothing before it has received something.
    waits: bool,
}

impl Read for Bytes {
    fn poll_read(mut self: Pin<&mut Self>, _: &mut Context<'_>, mut buffer: ReadBufCursor<'_>) -> Poll<io::Result<()>> {
        if self.waits {
            return Poll::Pending;
        }
        let length = self.bytes.len().min(buffer.remaining());
        buffer.put_slice(&self.bytes.drain(..length).collect::<Vec<_>>());
        Poll::Ready(Ok(()))
    }
}

impl Write for Bytes {
    fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.waits = false;
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// An empty body, of any kind that hyper may want to send.
struct Empty;

impl hyper::body::Body for Empty {
    type Data = &'static [u8];
    type Error = Infallible;

    fn poll_frame(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Self::Data>, Infallible>>> {
        Poll::Ready(None)
    }

    fn is_end_stream(&self) -> bool {
        true
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(0)
    }
}

/// The content of a body, as far as there is any, and whether it is complete.
async fn content(mut body: Incoming) -> (Vec<u8>, bool) {
    let mut content = Vec::new();
    loop {
        match poll_fn(|context| Pin::new(&mut body).poll_frame(context)).await {
            None => return (content, true),
            Some(Ok(frame)) => content.extend_from_slice(frame.data_ref().map_or(&[], |data| data)),
            Some(Err(_)) => return (content, false),
        }
    }
}

/// Polls until it is ready, but not forever: everything that it could wait for has arrived.
fn complete<T>(future: impl Future<Output = T>) -> Option<T> {
    let (mut future, mut context) = (pin!(future), Context::from_waker(Waker::noop()));
    (0..10_000).find_map(|_| match future.as_mut().poll(&mut context) {
        Poll::Ready(output) => Some(output),
        Poll::Pending => None,
    })
}

/// A request: its method, its target, its content, and whether the content was complete.
type Seen = (String, String, Vec<u8>, bool);

/// The requests that a server sees in these bytes, and whether it has refused the rest.
fn seen_by_hyper(bytes: &[u8]) -> (Vec<Seen>, bool) {
    let seen = Arc::<Mutex<Vec<Seen>>>::default();
    let service = service_fn(|request: HyperRequest<Incoming>| {
        let seen = seen.clone();
        async move {
            let (head, body) = request.into_parts();
            let (method, target) = (head.method.to_string(), head.uri.to_string());
            let place = {
                let mut seen = seen.lock().unwrap();
                seen.push((method, target, Vec::new(), false));
                seen.len() - 1
            };
            let (content, is_whole) = content(body).await;
            let mut seen = seen.lock().unwrap();
            (seen[place].2, seen[place].3) = (content, is_whole);
            // Not a 2xx, which would turn a CONNECT into a tunnel.
            Ok::<_, Infallible>(Response::builder().status(404).body(Empty).unwrap())
        }
    });
    let connection = hyper::server::conn::http1::Builder::new()
        .max_headers(MAX_FIELDS)
        .half_close(true)
        .serve_connection(Bytes { bytes: bytes.to_vec(), waits: false }, service);
    let outcome = complete(connection);
    let refused = outcome.is_none_or(|outcome| outcome.is_err());
    let seen = seen.lock().unwrap().clone();
    (seen, refused)
}

/// The content of the chunks of a body whose framing the observer has accepted.
fn without_chunks(mut body: &[u8]) -> Vec<u8> {
    let mut content = Vec::new();
    while let Some(end) = body.windows(2).position(|pair| pair == b"\r\n") {
        let digits = body[..end].split(|&byte| byte == b';').next().unwrap();
        let size = usize::from_str_radix(str::from_utf8(digits).unwrap(), 16).unwrap_or(usize::MAX);
        let data = &body[end + 2..];
        content.extend_from_slice(&data[..size.min(data.len())]);
        if size == 0 || data.len() < size + 2 {
            break;
        }
        body = &data[size + 2..];
    }
    content
}

fn seen_by_us(passed: &[Passed]) -> Vec<Seen> {
    let seen = passed.iter().map(|passed| {
        let line = passed.head.split(|&byte| byte == b'\r').next().unwrap();
        let line = String::from_utf8_lossy(line).into_owned();
        let mut parts = line.split(' ').map(str::to_owned);
        let content =
            if passed.request.body == Body::Chunked { without_chunks(&passed.body) } else { passed.body.clone() };
        (parts.next().unwrap(), parts.next().unwrap(), content, passed.is_whole)
    });
    seen.collect()
}

/// Each request that is passed on is the one that hyper sees in its place, in what the client has sent and in what the
/// program gets. hyper may refuse what we accept, and accepts some things that we refuse.
fn compare_requests(bytes: &[u8], forwarded: Forwarded) -> Result<usize, TestCaseError> {
    let (passed, ending) = pass_requests(bytes, &[], forwarded);
    let ours = seen_by_us(&passed);
    let sent = passed.iter().flat_map(|passed| [passed.head.as_slice(), &passed.body].concat()).collect::<Vec<_>>();
    for (is_sent, bytes) in [(false, bytes), (true, sent.as_slice())] {
        let (theirs, refused) = seen_by_hyper(bytes);
        // If a body is bad, how much of it was passed on before depends on its pieces.
        let decided = if ending == Ending::BadBody { ours.len() - 1 } else { ours.len() };
        for (ours, theirs) in ours[..decided].iter().zip(&theirs) {
            prop_assert_eq!(ours, theirs, "{}: {:?}", is_sent, bytes);
        }
        prop_assert!(theirs.len() >= decided || refused, "{}: {:?} {:?}", is_sent, ours, theirs);
        if is_sent {
            prop_assert!(theirs.len() <= ours.len(), "more than was passed on: {:?} {:?}", ours, theirs);
        }
    }
    Ok(ours.len())
}

#[test]
fn hyper_sees_the_same_requests() {
    for first in REQUESTS {
        for second in REQUESTS {
            let text = format!("{first}{second}{}", with(""));
            let seen = compare_requests(text.as_bytes(), Forwarded::Append).unwrap();
            assert!(seen >= 1, "{text:?}");
        }
    }
    assert_eq!(compare_requests(REQUESTS[..4].concat().as_bytes(), Forwarded::Replace).unwrap(), 4);
}

#[test]
fn hyper_sees_the_same_requests_in_whatever_is_nearly_one() {
    proptest!(config(), |(bytes in nearly(PARTS, REQUESTS), replace: bool)| {
        compare_requests(&bytes, if replace { Forwarded::Replace } else { Forwarded::Off })?;
    });
}

/// An answer: its status, its content, and whether the content was complete.
type Received = (u16, Vec<u8>, bool);

/// The answer that a client receives to this request.
fn received_by_hyper(bytes: &[u8], request: &Request) -> Option<Received> {
    let io = Bytes { bytes: bytes.to_vec(), waits: true };
    let handshake = hyper::client::conn::http1::Builder::new().max_headers(MAX_FIELDS).handshake::<_, Empty>(io);
    let (mut sender, connection) = complete(handshake)?.ok()?;
    let method = if request.method == Method::Head { hyper::Method::HEAD } else { hyper::Method::GET };
    let version = if request.is_old { hyper::Version::HTTP_10 } else { hyper::Version::HTTP_11 };
    let asked =
        HyperRequest::builder().method(method).version(version).uri("/").header("Host", "a").body(Empty).unwrap();
    let mut exchange = pin!(async {
        let response = sender.send_request(asked).await.ok()?;
        let status = response.status().as_u16();
        let (content, is_whole) = content(response.into_body()).await;
        Some((status, content, is_whole))
    });
    let (mut connection, mut has_ended) = (pin!(connection), false);
    complete(poll_fn(|context| {
        // This moves the bytes.
        has_ended = has_ended || connection.as_mut().poll(context).is_ready();
        exchange.as_mut().poll(context)
    }))?
}

/// An answer whose end is in no doubt is the one that hyper receives.
fn compare_answers(bytes: &[u8], requests: &[Request]) -> Result<usize, TestCaseError> {
    let (passed, ending) = pass_answers(bytes, &[], requests, false);
    let (mut from, mut end, mut compared, mut requests) = (0, 0, 0, requests.iter());
    for (place, answered) in passed.iter().enumerate() {
        end += answered.answer.head_length + answered.body.len();
        let Kind::Final { body, .. } = answered.answer.kind else { continue };
        if place + 1 == passed.len() && ending == Ending::BadBody {
            break;
        }
        let content = if body == Body::Chunked { without_chunks(&answered.body) } else { answered.body.clone() };
        let ours = (answered.answer.status, content, answered.is_whole || body == Body::UntilClose);
        // hyper gets what follows, too, if that is another answer.
        let theirs = received_by_hyper(&bytes[from..], requests.next().unwrap());
        prop_assert_eq!(Some(ours), theirs, "{:?}", &bytes[from..]);
        compared += 1;
        from = end;
    }
    Ok(compared)
}

#[test]
fn hyper_receives_the_same_answers() {
    assert_eq!(compare_answers(ANSWERS.as_bytes(), &asked()).unwrap(), 5);
}

#[test]
fn hyper_receives_the_same_answers_in_whatever_is_nearly_one() {
    proptest!(config(), |(bytes in nearly(ANSWER_PARTS, ANSWER_PARTS))| {
        compare_answers(&bytes, &asked())?;
    });
}
