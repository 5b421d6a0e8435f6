//! Which paths are found, and what is said when there is none.

use std::time::Duration;

use postern_lab::netns::Case;

use crate::scene::Scene;

pub(crate) const CASES: &[Case] = crate::cases!(a_file_crosses_two_masquerades_directly,);

fn a_file_crosses_two_masquerades_directly() {
    let scene = Scene::plain();
    let file = scene.file("photo.jpg", 20_000_000);
    let mut sender = scene.send(&[&file]);
    let mut receiver = scene.receive(&sender.code());
    for program in [&mut sender, &mut receiver] {
        let path = program.event("path");
        assert_eq!(
            (&path["kind"], &path["protocol"]),
            (&"direct".into(), &"udp".into())
        );
        let elapsed = Duration::from_millis(path["elapsed_ms"].as_u64().unwrap());
        assert!(elapsed < Duration::from_secs(2), "{elapsed:?}");
    }
    for program in [&mut receiver, &mut sender] {
        let done = program.succeeds();
        assert_eq!(
            (&done["bytes"], &done["files"]),
            (&20_000_000.into(), &1.into())
        );
        assert_eq!(done["path"], "direct");
    }
    scene.assert_arrived(&[file]);
    let passed = scene.bytes_through_server();
    assert!(passed < 100_000, "{passed} bytes went through the server");
}
