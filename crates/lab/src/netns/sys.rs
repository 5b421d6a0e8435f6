//! The few system calls that have no safe wrapper.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::{SigHandler, Signal, signal};

/// Makes `command` start inside the network namespace `namespace`, and end when the
/// thread that starts it ends: a program left over would keep the namespace alive.
#[expect(
    unsafe_code,
    reason = "pre_exec runs between fork and exec, where only async-signal-safe calls are allowed: \
              all of these are plain system calls on values made before the fork"
)]
pub(super) fn start_inside(command: &mut Command, namespace: Arc<File>) {
    let inside = move || {
        setns(&*namespace, CloneFlags::CLONE_NEWNET)?;
        set_pdeathsig(Signal::SIGKILL)?;
        hear_interrupts()?;
        show_own_interfaces();
        Ok(())
    };
    // SAFETY: see the reason above; the closure neither allocates nor locks.
    unsafe {
        command.pre_exec(inside);
    }
}

/// Undoes what a shell does to what it starts in the background: an interrupt that is ignored until
/// the program asks for it is lost if it comes before.
#[expect(
    unsafe_code,
    reason = "handlers may only do what is async-signal-safe, and the default ones are no code at all"
)]
fn hear_interrupts() -> nix::Result<()> {
    for number in [Signal::SIGINT, Signal::SIGQUIT, Signal::SIGTERM] {
        // SAFETY: see the reason above.
        unsafe { signal(number, SigHandler::SigDfl) }?;
    }
    Ok(())
}

/// Sets a variable of the environment. There must be no other thread.
#[expect(
    unsafe_code,
    reason = "the environment may be changed while there is one thread, which the caller has checked"
)]
pub(super) fn set_guard(name: &str, value: &Path) {
    // SAFETY: see the reason above.
    unsafe {
        std::env::set_var(name, value);
    }
}

/// Lets `/sys/class/net` show the interfaces of the namespace. Some systems forbid it;
/// then programs see none there, which they have to bear anyway.
fn show_own_interfaces() {
    if unshare(CloneFlags::CLONE_NEWNS).is_ok() {
        let sysfs = Some(c"sysfs");
        let _ = mount(
            sysfs,
            c"/sys",
            sysfs,
            MsFlags::empty(),
            None::<&std::ffi::CStr>,
        );
    }
}

/// Opens a packet socket on the interface with index `interface`: it reads and writes
/// whole Ethernet frames, each behind a `virtio_net_hdr` that carries what the kernel
/// still owes the frame (its checksum).
#[expect(
    unsafe_code,
    reason = "packet sockets and their options have no safe wrapper"
)]
pub(super) fn packet_socket(interface: u32) -> io::Result<File> {
    let protocol = u16::try_from(libc::ETH_P_ALL).unwrap_or_default().to_be();
    let kind = libc::SOCK_RAW | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
    // SAFETY: socket takes no pointer; the descriptor it returns is ours alone.
    let socket = unsafe {
        // Protocol 0: nothing arrives before the socket is bound to its interface.
        let raw = libc::socket(libc::AF_PACKET, kind, 0);
        if raw < 0 {
            return Err(io::Error::last_os_error());
        }
        OwnedFd::from_raw_fd(raw)
    };
    set_packet_option(&socket, libc::PACKET_VNET_HDR)?;
    set_packet_option(&socket, PACKET_IGNORE_OUTGOING)?;
    // SAFETY: all zeroes is a valid sockaddr_ll.
    let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    address.sll_family = libc::AF_PACKET as libc::sa_family_t;
    address.sll_protocol = protocol;
    address.sll_ifindex = interface.cast_signed();
    // SAFETY: the pointer and the length describe `address`, which outlives the call.
    let bound = unsafe {
        libc::bind(
            socket.as_raw_fd(),
            (&raw const address).cast(),
            size_of::<libc::sockaddr_ll>() as libc::socklen_t,
        )
    };
    if bound < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(File::from(socket))
}

/// From linux/if_packet.h, since Linux 4.20.
const PACKET_IGNORE_OUTGOING: libc::c_int = 23;

#[expect(unsafe_code, reason = "packet socket options have no safe wrapper")]
fn set_packet_option(socket: &OwnedFd, option: libc::c_int) -> io::Result<()> {
    let on: libc::c_int = 1;
    // SAFETY: the pointer and the length describe `on`, which outlives the call.
    let set = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_PACKET,
            option,
            (&raw const on).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
    if set < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}
