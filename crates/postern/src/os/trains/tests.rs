use std::io::IoSlice;
use std::net::UdpSocket;
use std::time::Duration;

use super::*;

/// Longer than loopback takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(10);

fn pair(role: Role) -> (TrainSocket, UdpSocket) {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let other = UdpSocket::bind("127.0.0.1:0").unwrap();
    other.set_read_timeout(Some(PATIENCE)).unwrap();
    (TrainSocket::new(socket, role).unwrap(), other)
}

fn train(to: SocketAddr, segment: usize, slices: &[IoSlice<'_>]) -> Outgoing {
    Outgoing {
        to,
        from: None,
        segment,
        bytes: slices.iter().map(|slice| slice.len()).sum(),
        slices: 0..slices.len(),
    }
}

fn datagrams(socket: &UdpSocket, count: usize) -> Vec<Vec<u8>> {
    let mut buffer = [0; 2048];
    (0..count)
        .map(|_| {
            let length = socket.recv(&mut buffer).unwrap();
            buffer[..length].to_vec()
        })
        .collect()
}

fn receive(socket: &TrainSocket, inbox: &mut Inbox) -> usize {
    let started = std::time::Instant::now();
    loop {
        match socket.receive(inbox) {
            Ok((0, _)) => {}
            Ok((received, _)) => return received,
            Err(error) => assert_eq!(error.kind(), io::ErrorKind::WouldBlock),
        }
        assert!(started.elapsed() < PATIENCE, "nothing arrived");
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn a_train_arrives_as_datagrams_with_their_headers() {
    let (socket, other) = pair(Role::Listener);
    let parts: [&[u8]; 6] = [b"h1", b"data", b"h2", b"more", b"h3", b"m"];
    let slices = parts.map(IoSlice::new);
    let to = other.local_addr().unwrap();
    socket.send(&mut Outbox::new(), &[train(to, 6, &slices)], &slices);
    assert_eq!(
        datagrams(&other, 3),
        [&b"h1data"[..], &b"h2more"[..], &b"h3m"[..]]
    );
}

#[test]
fn datagrams_that_the_kernel_does_not_cut_go_alone() {
    let (socket, other) = pair(Role::Listener);
    let to = other.local_addr().unwrap();
    // More segments than any kernel cuts from one send.
    let slices: Vec<_> = std::iter::repeat_n(IoSlice::new(b"datagram"), 200).collect();
    socket.send(&mut Outbox::new(), &[train(to, 8, &slices)], &slices);
    assert_eq!(datagrams(&other, 200), vec![b"datagram".to_vec(); 200]);
}

#[test]
fn what_was_received_is_sent_on_from_where_it_lies() {
    let (socket, other) = pair(Role::Relay);
    other.send_to(b"hello", socket.bound()).unwrap();
    let mut inbox = Inbox::new();
    assert_eq!(receive(&socket, &mut inbox), 1);
    let train = inbox.train(0).unwrap();
    assert_eq!((train.bytes, train.stride), (&b"hello"[..], 5));
    assert_eq!(train.from, other.local_addr().unwrap());
    let span = inbox.span(&train.bytes[1..]).unwrap();
    assert_eq!(inbox.bytes(span), b"ello");
    assert_eq!(inbox.span(b"elsewhere"), None);
}

#[test]
fn a_datagram_without_data_is_sent_and_received() {
    let (socket, other) = pair(Role::Relay);
    other.send_to(b"", socket.bound()).unwrap();
    let mut inbox = Inbox::new();
    assert_eq!(receive(&socket, &mut inbox), 1);
    assert_eq!(inbox.train(0).unwrap().bytes, b"");
    let to = other.local_addr().unwrap();
    socket.send(&mut Outbox::new(), &[train(to, 0, &[])], &[]);
    assert_eq!(datagrams(&other, 1), [b""]);
}

#[cfg(target_os = "linux")]
#[test]
fn a_refused_datagram_is_told_of_and_breaks_nothing() {
    let (socket, other) = pair(Role::Relay);
    let nobody = UdpSocket::bind("127.0.0.1:0").unwrap();
    let gone = nobody.local_addr().unwrap();
    drop(nobody);
    let slices = [IoSlice::new(b"data")];
    socket.send(&mut Outbox::new(), &[train(gone, 4, &slices)], &slices);
    let refusal = IcmpError {
        to: gone,
        kind: 3,
        code: 3,
        mtu: 0,
        by: Some(gone.ip()),
    };
    assert_eq!(socket.next_error(), Some(refusal));
    assert_eq!(socket.next_error(), None);
    // Another one is told instead of the next send, which is made nevertheless.
    let to = other.local_addr().unwrap();
    let trains = [train(gone, 4, &slices), train(to, 4, &slices)];
    socket.send(&mut Outbox::new(), &trains, &slices);
    assert_eq!(datagrams(&other, 1), [b"data"]);
}
