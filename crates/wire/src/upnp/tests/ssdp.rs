use std::net::SocketAddr;

use proptest::prelude::*;

use crate::upnp::ssdp::{
    Advertisement, GROUP_V4, MAX_LEN, Message, Notify, NotifyKind, PORT, Search, SsdpError,
};

fn group() -> SocketAddr {
    (GROUP_V4, PORT).into()
}

fn search() -> Search {
    Search {
        target: "urn:schemas-upnp-org:device:InternetGatewayDevice:1".into(),
        mx: Some(2),
        host: "239.255.255.250:1900".into(),
        user_agent: String::new(),
    }
}

fn advertisement() -> Advertisement {
    Advertisement {
        target: "upnp:rootdevice".into(),
        usn: "uuid:1::upnp:rootdevice".into(),
        location: "http://192.168.1.1:5000/rootDesc.xml".into(),
        server: "Debian UPnP/1.1 MiniUPnPd/2.3.1".into(),
        max_age: Some(1800),
        boot_id: Some(7),
        config_id: Some(1337),
    }
}

fn messages() -> Vec<Message> {
    let notify = |kind| {
        Message::Notify(Notify {
            kind,
            about: advertisement(),
            next_boot_id: (kind == NotifyKind::Update).then_some(8),
        })
    };
    vec![
        Message::Search(search()),
        Message::Search(Search {
            mx: None,
            user_agent: "Linux/6 UPnP/1.1 postern/1".into(),
            ..search()
        }),
        Message::Response(advertisement()),
        notify(NotifyKind::Alive),
        notify(NotifyKind::ByeBye),
        notify(NotifyKind::Update),
    ]
}

#[test]
fn what_is_written_is_read_back() {
    for message in messages() {
        assert_eq!(Message::parse(&message.to_bytes(group())), Ok(message));
    }
}

#[test]
fn a_search_is_written_as_the_architecture_has_it() {
    assert_eq!(
        String::from_utf8(search().to_bytes()).unwrap(),
        "M-SEARCH * HTTP/1.1\r\nHOST: 239.255.255.250:1900\r\nMAN: \"ssdp:discover\"\r\nMX: 2\r\n\
         ST: urn:schemas-upnp-org:device:InternetGatewayDevice:1\r\n\r\n"
    );
}

#[test]
fn without_its_last_header_it_is_refused() {
    for message in messages() {
        let bytes = message.to_bytes(group());
        let text = String::from_utf8(bytes).unwrap();
        let needed = if matches!(message, Message::Notify(_)) {
            "NT"
        } else {
            "ST"
        };
        let cut = text.replace(&format!("\r\n{needed}: "), "\r\nX: ");
        assert_eq!(
            Message::parse(cut.as_bytes()),
            Err(SsdpError::Header(needed)),
            "{cut}"
        );
    }
    let no_man = b"M-SEARCH * HTTP/1.1\r\nMX: 1\r\nST: a\r\n\r\n";
    assert_eq!(Message::parse(no_man), Err(SsdpError::Header("MAN")));
    let odd_mx = b"M-SEARCH * HTTP/1.1\r\nMAN: \"ssdp:discover\"\r\nMX: x\r\nST: a\r\n\r\n";
    assert_eq!(Message::parse(odd_mx), Err(SsdpError::Header("MX")));
}

#[test]
fn other_messages_are_told_apart() {
    let refused = |text: &str| Message::parse(text.as_bytes()).unwrap_err();
    assert_eq!(refused("GET * HTTP/1.1\r\n\r\n"), SsdpError::Method);
    assert_eq!(refused("NOTIFY / HTTP/1.1\r\n\r\n"), SsdpError::Method);
    assert_eq!(refused("HTTP/1.1 404 No\r\n\r\n"), SsdpError::Status);
    assert!(matches!(refused("\0\0garbage"), SsdpError::Http(_)));
    assert_eq!(refused(&"a".repeat(MAX_LEN + 1)), SsdpError::TooLong);
}

#[test]
fn answers_that_gateways_get_wrong_are_read() {
    let bare = "HTTP/1.1 200 OK\r\nST:upnp:rootdevice\r\nLocation:http://10.0.0.1/\r\n\
                Cache-Control: max-age = 120\r\nBOOTID.UPNP.ORG: soon";
    let Ok(Message::Response(about)) = Message::parse(bare.as_bytes()) else {
        panic!("a blank line may be missing");
    };
    assert_eq!(about.location, "http://10.0.0.1/");
    assert_eq!(about.max_age, Some(120));
    assert_eq!(about.boot_id, None);
}

proptest! {
    #[test]
    fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        for start in ["", "HTTP/1.1 200 OK\r\nST: ", "NOTIFY * HTTP/1.1\r\nNTS: ssdp:alive\r\nNT: "] {
            let bytes = [start.as_bytes(), &bytes].concat();
            if let Ok(message) = Message::parse(&bytes) {
                prop_assert_eq!(Message::parse(&message.to_bytes(group())), Ok(message));
            }
        }
    }
}
