//! Two sessions on the loopback.

use std::time::Duration;

use super::*;

fn options(role: Role, components: u16) -> Options {
    Options {
        components,
        loopback: true,
        ..Options::new(role)
    }
}

async fn both(components: u16) -> (Session, Session) {
    let a = Session::gather(options(Role::Controlling, components));
    let b = Session::gather(options(Role::Controlled, components));
    let (a, b) = tokio::join!(a, b);
    let (mut a, mut b) = (a.unwrap(), b.unwrap());
    a.connect(b.description()).unwrap();
    b.connect(a.description()).unwrap();
    (a, b)
}

async fn connected(session: &mut Session) -> Path {
    loop {
        if let Event::Connected { path, .. } = session.next().await
            && session.is_connected()
        {
            return path;
        }
    }
}

#[tokio::test]
async fn two_sessions_connect_and_exchange_datagrams_on_both_components() {
    let (mut a, mut b) = both(2).await;
    let test = async {
        let (path, _) = tokio::join!(connected(&mut a), connected(&mut b));
        a.send(path.into(), b"hello").await;
        loop {
            tokio::select! {
                _ = a.next() => {}
                event = b.next() => if let Event::Data { way, payload } = event {
                    assert_eq!(payload, b"hello");
                    assert_eq!((way.local, way.remote), (path.remote, path.local));
                    return;
                }
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(20), test)
        .await
        .unwrap();
}

#[tokio::test]
async fn credentials_that_no_agent_has_are_refused() {
    let mut session = Session::gather(options(Role::Controlling, 1))
        .await
        .unwrap();
    let peer = Description {
        ufrag: "abc".into(),
        ..session.description().clone()
    };
    assert_eq!(session.connect(&peer), Err(DescriptionError::Credentials));
}
