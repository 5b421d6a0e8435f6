//! What gateways and their clients say.

use crate::natpmp;
use crate::pcp;
use crate::upnp::description::{Description, DescriptionError};
use crate::upnp::http::{Bounds, Collector};
use crate::upnp::igd::{Entry, Pinhole, Range, ServiceType, listing_from_xml, listing_to_xml};
use crate::upnp::soap::{Call, Reply};
use crate::upnp::ssdp::{MAX_LEN, Message};
use crate::upnp::url::HttpUrl;
use crate::upnp::xml::Element;

/// NAT-PMP, both directions: what parses is written and read back the same.
pub fn natpmp(data: &[u8]) {
    use natpmp::{Request, Response, ResultCode, refusal};
    if let Ok(request) = Request::parse(data) {
        assert_eq!(Request::parse(&request.to_bytes()), Ok(request));
    }
    if let Ok(response) = Response::parse(data) {
        assert_eq!(Response::parse(&response.to_bytes()), Ok(response));
    }
    if let Some(answer) = refusal(data, ResultCode::NOT_AUTHORIZED, 1) {
        assert!(Response::parse(&answer).is_ok());
    }
}

/// PCP, both directions: what parses is written and read back the same.
pub fn pcp(data: &[u8]) {
    use pcp::{Request, Response, ResultCode, refusal};
    if let Ok(request) = Request::parse(data) {
        assert_eq!(Request::parse(&request.to_bytes()), Ok(request));
    }
    if let Ok(response) = Response::parse(data) {
        assert_eq!(Response::parse(&response.to_bytes()), Ok(response));
    }
    if let Some(answer) = refusal(data, ResultCode::NO_RESOURCES, 30, 1) {
        assert!(answer.len() <= pcp::MAX_LEN);
        assert!(Response::parse(&answer).is_ok());
    }
}

/// A datagram of discovery, a message of HTTP in two pieces, and the documents in it.
pub fn upnp(data: &[u8]) {
    if let Ok(message) = Message::parse(data) {
        let again = message.to_bytes(([239, 255, 255, 250], 1900).into());
        // A byte that is no UTF-8 takes three.
        assert!(again.len() > MAX_LEN || Message::parse(&again) == Ok(message));
    }
    if let Some(body) = http(data) {
        documents(&body);
    }
    documents(data);
    if let Ok(text) = std::str::from_utf8(data) {
        if let Ok(url) = text.parse::<HttpUrl>() {
            assert_eq!(url.to_string().parse(), Ok(url));
        }
        if let Ok(service) = text.parse::<ServiceType>() {
            assert_ne!(service.version, 0);
        }
        if let Some((header, body)) = text.split_once('\n') {
            _ = Call::parse(Some(header), body.as_bytes());
        }
        if let Ok(entries) = listing_from_xml(text) {
            _ = listing_from_xml(&listing_to_xml(&entries));
        }
    }
}

/// The body of an answer or a request. Pieces make no difference.
fn http(data: &[u8]) -> Option<Vec<u8>> {
    let bounds = Bounds::default();
    let mut request = Collector::request(bounds);
    if request.push(data).is_ok()
        && let Ok(request) = request.into_request()
    {
        return Some(request.body);
    }
    let mut whole = Collector::response(bounds);
    let mut pieces = Collector::response(bounds);
    let (first, second) = data.split_at(data.len().div_euclid(2));
    let in_pieces = pieces.push(first).and_then(|()| pieces.push(second));
    let at_once = whole.push(data);
    assert_eq!(at_once.is_ok(), in_pieces.is_ok());
    let whole = at_once.and_then(|()| whole.into_response());
    let pieces = in_pieces.and_then(|()| pieces.into_response());
    assert_eq!(whole, pieces);
    whole.ok().map(|response| response.body)
}

fn documents(body: &[u8]) {
    _ = Element::parse(body);
    if let Ok(description) = Description::parse(body) {
        // What was escaped may be too long now, never unreadable.
        let again = Description::parse(description.to_xml().as_bytes());
        assert!(matches!(again, Ok(_) | Err(DescriptionError::Xml(_))));
    }
    if let Ok(call) = Call::parse(None, body) {
        _ = Entry::from_call(&call.arguments);
        if let Some(entry) = Entry::from_answer(&call.arguments) {
            let again = Entry::from_specific_answer(entry.key.clone(), &call.arguments);
            assert_eq!(again, Some(entry));
        }
        _ = Range::from_call(&call.arguments);
        _ = Pinhole::from_call(&call.arguments);
    }
    _ = Reply::parse(body);
}
