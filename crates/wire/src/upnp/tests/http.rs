use proptest::prelude::*;

use crate::upnp::http::{Bounds, Collector, Headers, HttpError, Request, Response};

const BOUNDS: Bounds = Bounds {
    head: 200,
    body: 100,
};

fn response(bytes: &[u8]) -> Result<Response, HttpError> {
    let mut collector = Collector::response(BOUNDS);
    collector.push(bytes)?;
    collector.into_response()
}

fn body_of(bytes: &[u8]) -> Result<Vec<u8>, HttpError> {
    response(bytes).map(|response| response.body)
}

fn answer() -> Response {
    Response {
        status: 200,
        reason: "OK".into(),
        headers: Headers::default().with("Server", "x"),
        body: b"hello".to_vec(),
    }
}

fn post() -> Request {
    Request {
        method: "POST".into(),
        target: "/ctl?a=b".into(),
        headers: Headers::default().with("Host", "192.0.2.1:80"),
        body: b"hello".to_vec(),
    }
}

#[test]
fn messages_are_written_and_read_back() {
    let read = response(&answer().to_bytes()).unwrap();
    assert_eq!((read.status, read.body), (200, b"hello".to_vec()));
    assert_eq!(read.headers.get("SERVER"), Some("x"));
    let mut collector = Collector::request(BOUNDS);
    collector.push(&post().to_bytes()).unwrap();
    assert!(collector.is_complete());
    let read = collector.into_request().unwrap();
    assert_eq!(
        (read.method.as_str(), read.target.as_str()),
        ("POST", "/ctl?a=b")
    );
    assert_eq!(read.body, b"hello");
}

#[test]
fn one_byte_short_is_cut_short() {
    let bytes = post().to_bytes();
    let mut collector = Collector::request(BOUNDS);
    collector.push(&bytes[..bytes.len() - 1]).unwrap();
    assert!(!collector.is_complete());
    assert_eq!(collector.head().unwrap().0, "POST");
    assert_eq!(collector.into_request(), Err(HttpError::CutShort));
    assert_eq!(response(b"HTTP/1.1 200 OK\r\n\r"), Err(HttpError::CutShort));
    let empty = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n";
    assert_eq!(response(empty), Err(HttpError::CutShort));
}

#[test]
fn the_kind_of_message_is_told_apart() {
    let mut collector = Collector::request(BOUNDS);
    assert!(collector.push(&answer().to_bytes()).is_err());
    assert_eq!(response(&post().to_bytes()), Err(HttpError::Malformed));
}

#[test]
fn a_request_is_written_as_the_rfc_has_it() {
    assert_eq!(
        post().to_bytes(),
        b"POST /ctl?a=b HTTP/1.1\r\nHost: 192.0.2.1:80\r\nContent-Length: 5\r\n\r\nhello"
    );
    let get = Request {
        method: "GET".into(),
        body: Vec::new(),
        ..post()
    };
    assert!(!get.to_bytes().windows(7).any(|w| w == b"Content"));
}

#[test]
fn a_body_ends_with_its_length_its_last_chunk_or_the_connection() {
    for (bytes, body) in [
        (&b"HTTP/1.0 200 OK\r\n\r\nto the end"[..], &b"to the end"[..]),
        (b"HTTP/1.1 200 OK\nContent-Length: 2\n\nokmore", b"ok"),
        (
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3;x=y\r\nabc\r\n2\r\nde\r\n0\r\nT: r\r\n\r\n",
            b"abcde",
        ),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nless", b"less"),
        (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n\r\nx", b"x"),
        (b"HTTP/1.1 204 No Content\r\n\r\nx", b""),
    ] {
        assert_eq!(body_of(bytes).unwrap(), body);
    }
}

#[test]
fn heads_that_gateways_get_wrong_are_read() {
    for head in [
        "HTTP/1.1 200 OK\r\nServer : x",
        "HTTP/1.1 200\r\nServer: x",
        "HTTP/1.1  200 OK\r\nServer: x",
        "HTTP/1.1 200 OK\r\nno colon here\r\nServer: x",
        "HTTP/1.1 200 OK\r\nServer:x \r\n",
    ] {
        let bytes = format!("{}\r\n\r\n", head.trim_end());
        let read = response(bytes.as_bytes()).unwrap();
        assert_eq!(read.headers.get("server"), Some("x"), "{head}");
    }
}

#[test]
fn everything_has_a_bound() {
    let long_head = [b"HTTP/1.1 200 OK\r\nA: ".to_vec(), vec![b'a'; 300]].concat();
    assert_eq!(response(&long_head), Err(HttpError::HeadTooLong));
    let announced = b"HTTP/1.1 200 OK\r\nContent-Length: 101\r\n\r\n";
    assert_eq!(response(announced), Err(HttpError::BodyTooLong));
    let endless = [b"HTTP/1.1 200 OK\r\n\r\n".to_vec(), vec![0; 101]].concat();
    assert_eq!(response(&endless), Err(HttpError::BodyTooLong));
    let chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
    let chunk = [&chunked[..], b"FFFFFFFFFFFFFFFFFF\r\n"].concat();
    assert_eq!(response(&chunk), Err(HttpError::BodyTooLong));
    let trailer = [&chunked[..], b"0\r\n", &vec![b'a'; 300][..]].concat();
    assert_eq!(response(&trailer), Err(HttpError::HeadTooLong));
    let many = format!("HTTP/1.1 200 OK\r\n{}\r\n", "a:b\r\n".repeat(65));
    let mut collector = Collector::response(Bounds::default());
    assert_eq!(
        collector.push(many.as_bytes()),
        Err(HttpError::TooManyHeaders)
    );
}

#[test]
fn a_length_that_is_none_is_refused() {
    for length in ["-1", "+1", "a", "", "1\r\nContent-Length: 2"] {
        let bytes = format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\nxx");
        assert_eq!(
            response(bytes.as_bytes()),
            Err(HttpError::Length),
            "{length}"
        );
    }
    let huge = b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999999\r\n\r\n";
    assert_eq!(response(huge), Err(HttpError::BodyTooLong));
    for chunks in ["\r\n", "x\r\n", "1\r\nabc"] {
        let bytes = format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{chunks}");
        assert_eq!(
            response(bytes.as_bytes()),
            Err(HttpError::Length),
            "{chunks}"
        );
    }
}

#[test]
fn a_header_cannot_end_its_line() {
    let mut request = post();
    request.headers.add("User-Agent", "a\r\nEvil: b");
    let text = String::from_utf8(request.to_bytes()).unwrap();
    assert!(text.contains("User-Agent: a  Evil: b\r\n"));
}

fn in_pieces(bytes: &[u8], size: usize) -> Result<Response, HttpError> {
    let mut collector = Collector::response(BOUNDS);
    for piece in bytes.chunks(size) {
        collector.push(piece)?;
    }
    collector.into_response()
}

proptest! {
    #[test]
    fn pieces_make_the_same_message(
        size in 1usize..20,
        framing in prop_oneof![
            Just(""), Just("Content-Length: 7\r\n"), Just("Transfer-Encoding: chunked\r\n")
        ],
        body in "[0-9a-f\r\n; ]{0,40}",
    ) {
        let bytes = format!("HTTP/1.1 200 OK\r\n{framing}\r\n{body}");
        prop_assert_eq!(in_pieces(bytes.as_bytes(), size), response(bytes.as_bytes()));
    }
}
