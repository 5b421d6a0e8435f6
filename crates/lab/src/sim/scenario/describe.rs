//! Payloads in a few words, for traces.

use postern_wire::stun::{
    AttributeType, Class, ErrorCode, Message, Method, Username, XorMappedAddress,
};

/// Names a payload for [`World::trace`](crate::sim::World::trace): what a STUN message
/// says, the length of anything else.
#[must_use]
pub fn describe(payload: &[u8]) -> String {
    match Message::parse(payload) {
        Ok(message) if message.method() == Method::BINDING => binding(&message),
        Ok(_) => format!("STUN, {} bytes", payload.len()),
        Err(_) => format!("{} bytes", payload.len()),
    }
}

fn binding(message: &Message<'_>) -> String {
    match message.class() {
        Class::Request => request(message),
        Class::Indication => "indication".to_owned(),
        Class::Success => match message.get::<XorMappedAddress>() {
            Ok(Some(XorMappedAddress(address))) => format!("success: you are {address}"),
            Ok(None) | Err(_) => "success".to_owned(),
        },
        Class::Error => match message.get::<ErrorCode>() {
            Ok(Some(error)) => format!("error {}", error.code()),
            Ok(None) | Err(_) => "error".to_owned(),
        },
    }
}

fn request(message: &Message<'_>) -> String {
    let to = match message.get::<Username>() {
        Ok(Some(name)) => format!("check {}", name.as_str()),
        Ok(None) | Err(_) => "binding request".to_owned(),
    };
    let nominates = message.contains(AttributeType::USE_CANDIDATE);
    let end = if nominates { ", nominates" } else { "" };
    format!("{to}{end}")
}
