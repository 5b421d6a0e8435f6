//! recvmmsg with UDP_GRO, sendmmsg with UDP_SEGMENT, and the error queue.
#![expect(
    unsafe_code,
    reason = "recvmmsg, sendmmsg and control messages have no safe wrapper"
)]

use std::io::{self, IoSlice};
use std::mem::{self, MaybeUninit};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsRawFd, RawFd};
use std::ptr;

use mio::Interest;
use mio::net::UdpSocket;

use super::{BATCH, IcmpError, Outgoing, Role, STAGGER, Span, TRAIN, Train};

/// Bytes of control messages: IPV6_PKTINFO and UDP_GRO or UDP_SEGMENT, or an extended
/// error with an address.
const CONTROL: usize = 128;

/// Trains sent at once.
const SENDS: usize = 32;

/// Slices of one message: the kernel's limit.
const MAX_SLICES: usize = libc::UIO_MAXIOV as usize;

/// A buffer for control messages, aligned as their headers.
#[derive(Debug, Clone, Copy)]
#[repr(C, align(8))]
struct Control([u8; CONTROL]);

const NO_CONTROL: Control = Control([0; CONTROL]);

/// Memory for one batch of received trains.
pub(crate) struct Inbox {
    memory: Box<[u8]>,
    names: Box<[libc::sockaddr_storage]>,
    controls: Box<[Control]>,
    trains: Vec<Received>,
}

impl std::fmt::Debug for Inbox {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Inbox").finish_non_exhaustive()
    }
}

#[derive(Debug)]
struct Received {
    from: SocketAddr,
    at: Option<IpAddr>,
    stride: usize,
    span: Span,
}

impl Inbox {
    pub(crate) fn new() -> Self {
        // SAFETY: all zeroes is a sockaddr_storage.
        let name: libc::sockaddr_storage = unsafe { mem::zeroed() };
        Self {
            memory: vec![0; BATCH * (TRAIN + STAGGER)].into(),
            names: vec![name; BATCH].into(),
            controls: vec![NO_CONTROL; BATCH].into(),
            trains: Vec::with_capacity(BATCH),
        }
    }

    /// A train of the last receive.
    pub(crate) fn train(&self, index: usize) -> Option<Train<'_>> {
        let received = self.trains.get(index)?;
        Some(Train {
            from: received.from,
            at: received.at,
            stride: received.stride,
            bytes: self.bytes(received.span),
        })
    }

    /// Where something lies that was received; `None` if it was not.
    pub(crate) fn span(&self, part: &[u8]) -> Option<Span> {
        Span::of(part, &self.memory)
    }

    pub(crate) fn bytes(&self, span: Span) -> &[u8] {
        span.within(&self.memory)
    }

    /// Takes what is there; says how many trains, and whether the socket may have more.
    fn fill(&mut self, socket: RawFd) -> io::Result<(usize, bool)> {
        self.trains.clear();
        let mut vectors: [libc::iovec; BATCH] = zeroes();
        let mut headers: [libc::mmsghdr; BATCH] = zeroes();
        let memory = self.memory.chunks_exact_mut(TRAIN + STAGGER);
        let places = memory.zip(&mut self.names).zip(&mut self.controls);
        let entries = vectors.iter_mut().zip(&mut headers);
        for (((memory, name), control), (vector, header)) in places.zip(entries) {
            vector.iov_base = memory.as_mut_ptr().cast();
            vector.iov_len = TRAIN;
            header.msg_hdr.msg_name = ptr::from_mut(name).cast();
            header.msg_hdr.msg_namelen = size_of::<libc::sockaddr_storage>() as libc::socklen_t;
            header.msg_hdr.msg_iov = vector;
            header.msg_hdr.msg_iovlen = 1;
            header.msg_hdr.msg_control = control.0.as_mut_ptr().cast();
            header.msg_hdr.msg_controllen = CONTROL as _;
        }
        let count = again(|| {
            // SAFETY: every header points to a name, a vector and a control buffer that
            // live until the call returns, with their true sizes.
            unsafe {
                libc::recvmmsg(
                    socket,
                    headers.as_mut_ptr(),
                    BATCH as libc::c_uint,
                    libc::MSG_DONTWAIT,
                    ptr::null_mut(),
                )
            }
        })?;
        for (header, index) in headers.iter().take(count).zip(0..) {
            let received = self.decode(header, index);
            self.trains.extend(received);
        }
        Ok((self.trains.len(), count == BATCH))
    }

    /// What one message says; `None` for what cannot be answered.
    fn decode(&self, header: &libc::mmsghdr, index: usize) -> Option<Received> {
        if header.msg_hdr.msg_flags & libc::MSG_TRUNC != 0 {
            return None;
        }
        let length = header.msg_len as usize;
        let start = index * (TRAIN + STAGGER);
        let span = Span::of(self.memory.get(start..start + length)?, &self.memory)?;
        let mut received = Received {
            from: address(self.names.get(index)?)?,
            at: None,
            stride: length.max(1),
            span,
        };
        for (level, kind, data) in control_messages(&header.msg_hdr) {
            match (level, kind) {
                (libc::SOL_UDP, libc::UDP_GRO) => {
                    let stride: libc::c_int = read(data)?;
                    received.stride = usize::try_from(stride).ok()?.max(1);
                }
                (libc::IPPROTO_IP, libc::IP_PKTINFO) => {
                    let info: libc::in_pktinfo = read(data)?;
                    let ip = Ipv4Addr::from(info.ipi_addr.s_addr.to_ne_bytes());
                    received.at = Some(ip.into());
                }
                (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO) => {
                    let info: libc::in6_pktinfo = read(data)?;
                    received.at = Some(Ipv6Addr::from(info.ipi6_addr.s6_addr).into());
                }
                _ => {}
            }
        }
        Some(received)
    }
}

/// Room for the addresses and control messages of what is sent at once.
#[derive(Clone)]
pub(crate) struct Outbox {
    names: Box<[libc::sockaddr_in6]>,
    controls: Box<[Control]>,
}

impl std::fmt::Debug for Outbox {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Outbox").finish_non_exhaustive()
    }
}

impl Outbox {
    pub(crate) fn new() -> Self {
        // SAFETY: all zeroes is a sockaddr_in6.
        let name: libc::sockaddr_in6 = unsafe { mem::zeroed() };
        Self {
            names: vec![name; SENDS].into(),
            controls: vec![NO_CONTROL; SENDS].into(),
        }
    }
}

/// A UDP socket in a poll.
#[derive(Debug)]
pub(crate) struct TrainSocket {
    socket: UdpSocket,
    bound: SocketAddr,
}

impl TrainSocket {
    /// Takes a bound socket over.
    pub(crate) fn new(socket: std::net::UdpSocket, role: Role) -> io::Result<Self> {
        let bound = socket.local_addr()?;
        let fd = socket.as_raw_fd();
        socket.set_nonblocking(true)?;
        // An old kernel gives datagrams one by one.
        let _ = set_option(fd, libc::SOL_UDP, libc::UDP_GRO, 1);
        let (level, info) = match bound {
            SocketAddr::V4(_) => (libc::IPPROTO_IP, libc::IP_PKTINFO),
            SocketAddr::V6(_) => (libc::IPPROTO_IPV6, libc::IPV6_RECVPKTINFO),
        };
        if bound.ip().is_unspecified() {
            set_option(fd, level, info, 1)?;
        }
        if role == Role::Relay {
            keep_errors_of(fd, bound)?;
        }
        let socket = UdpSocket::from_std(socket);
        // Who does not ask for it expects no DF bit: RFC 8656 section 14.
        crate::os::set_may_fragment(&socket, true)?;
        Ok(Self { socket, bound })
    }

    pub(crate) const fn bound(&self) -> SocketAddr {
        self.bound
    }

    pub(crate) fn register(&mut self, poll: &mio::Registry, token: mio::Token) -> io::Result<()> {
        poll.register(&mut self.socket, token, Interest::READABLE)
    }

    pub(crate) fn deregister(&mut self, poll: &mio::Registry) {
        if let Err(error) = poll.deregister(&mut self.socket) {
            tracing::debug!(%error, "a socket could not be taken out of the poll");
        }
    }

    /// Receives at most [`BATCH`] trains; says how many, and whether there may be more.
    pub(crate) fn receive(&self, inbox: &mut Inbox) -> io::Result<(usize, bool)> {
        inbox.fill(self.socket.as_raw_fd())
    }

    /// Whether what is sent from now on may be cut into fragments on its way.
    pub(crate) fn set_may_fragment(&self, may: bool) {
        let _ = crate::os::set_may_fragment(&self.socket, may);
    }

    /// Sends these trains, whose slices are among `slices`. What the network does not take
    /// is lost, as datagrams are.
    pub(crate) fn send(&self, outbox: &mut Outbox, trains: &[Outgoing], slices: &[IoSlice<'_>]) {
        let mut rest = trains;
        while let Some((first, others)) = rest.split_first() {
            match send_some(self.socket.as_raw_fd(), outbox, rest, slices) {
                Ok(sent) => rest = rest.get(sent.max(1)..).unwrap_or_default(),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(_) => {
                    self.send_singly(outbox, first, slices);
                    rest = others;
                }
            }
        }
    }

    /// The kernel cuts no train whose datagrams it would have to cut again; and an error
    /// that an earlier datagram met is told instead of sending. In both cases each goes
    /// alone, and once more.
    fn send_singly(&self, outbox: &mut Outbox, train: &Outgoing, slices: &[IoSlice<'_>]) {
        let mut start = train.slices.start;
        let mut bytes = 0;
        for end in train.slices.clone() {
            bytes += slices.get(end).map_or(0, |slice| slice.len());
            let is_last = end + 1 == train.slices.end;
            if bytes < train.segment && !is_last {
                continue;
            }
            let datagram = Outgoing {
                bytes,
                slices: start..end + 1,
                ..train.clone()
            };
            let socket = self.socket.as_raw_fd();
            if let Err(error) = send_some(socket, outbox, &[datagram], slices) {
                tracing::trace!(%error, to = %train.to, "a datagram could not be sent");
            }
            (start, bytes) = (end + 1, 0);
        }
    }

    /// The next ICMP error about a datagram that this socket sent.
    pub(crate) fn next_error(&self) -> Option<IcmpError> {
        next_error_of(self.socket.as_raw_fd())
    }
}

pub(super) fn keep_errors(socket: &tokio::net::UdpSocket) -> io::Result<()> {
    keep_errors_of(socket.as_raw_fd(), socket.local_addr()?)
}

fn keep_errors_of(socket: RawFd, bound: SocketAddr) -> io::Result<()> {
    let (level, errors) = match bound {
        SocketAddr::V4(_) => (libc::IPPROTO_IP, libc::IP_RECVERR),
        SocketAddr::V6(_) => (libc::IPPROTO_IPV6, libc::IPV6_RECVERR),
    };
    set_option(socket, level, errors, 1)
}

pub(super) fn next_error(socket: &tokio::net::UdpSocket) -> Option<IcmpError> {
    next_error_of(socket.as_raw_fd())
}

/// Also other errors are in the queue; each call takes one out.
fn next_error_of(socket: RawFd) -> Option<IcmpError> {
    while let Some(error) = take_error(socket) {
        if error.is_some() {
            return error;
        }
    }
    None
}

/// How many of the first trains the kernel took; the error if it was none.
fn send_some(
    socket: RawFd,
    outbox: &mut Outbox,
    trains: &[Outgoing],
    slices: &[IoSlice<'_>],
) -> io::Result<usize> {
    let mut headers: [MaybeUninit<libc::mmsghdr>; SENDS] = [const { MaybeUninit::uninit() }; SENDS];
    let places = outbox.names.iter_mut().zip(&mut outbox.controls);
    let mut count: libc::c_uint = 0;
    for ((train, header), (name, control)) in trains.iter().zip(&mut headers).zip(places) {
        let slices = slices.get(train.slices.clone()).unwrap_or_default();
        header.write(libc::mmsghdr {
            msg_hdr: message(train, slices, name, control),
            msg_len: 0,
        });
        count += 1;
    }
    again(|| {
        // SAFETY: the first `count` headers were written; they point to names, slices and
        // control messages that live until the call returns, with their true sizes. An
        // IoSlice is an iovec (its documentation says so), and sendmmsg does not write to
        // what it points to.
        unsafe {
            libc::sendmmsg(
                socket,
                headers.as_mut_ptr().cast(),
                count,
                libc::MSG_DONTWAIT,
            )
        }
    })
}

/// The header of one train.
fn message(
    train: &Outgoing,
    slices: &[IoSlice<'_>],
    name: &mut libc::sockaddr_in6,
    control: &mut Control,
) -> libc::msghdr {
    let mut header: libc::msghdr = zeroes();
    header.msg_namelen = write_address(train.to, name);
    header.msg_name = ptr::from_mut(name).cast();
    header.msg_iov = slices.as_ptr().cast_mut().cast();
    header.msg_iovlen = slices.len().min(MAX_SLICES) as _;
    let mut writer = ControlWriter { control, length: 0 };
    if !train.is_single() {
        let segment = u16::try_from(train.segment).unwrap_or(u16::MAX);
        writer.push(libc::SOL_UDP, libc::UDP_SEGMENT, segment);
    }
    match train.from {
        Some(IpAddr::V4(ip)) => {
            let mut info: libc::in_pktinfo = zeroes();
            info.ipi_spec_dst.s_addr = u32::from_ne_bytes(ip.octets());
            writer.push(libc::IPPROTO_IP, libc::IP_PKTINFO, info);
        }
        Some(IpAddr::V6(ip)) => {
            let mut info: libc::in6_pktinfo = zeroes();
            info.ipi6_addr.s6_addr = ip.octets();
            writer.push(libc::IPPROTO_IPV6, libc::IPV6_PKTINFO, info);
        }
        None => {}
    }
    let length = writer.length;
    if length > 0 {
        header.msg_control = control.0.as_mut_ptr().cast();
        header.msg_controllen = length as _;
    }
    header
}

/// Writes control messages one behind the other.
struct ControlWriter<'a> {
    control: &'a mut Control,
    length: usize,
}

impl ControlWriter<'_> {
    fn push<T: Copy>(&mut self, level: libc::c_int, kind: libc::c_int, value: T) {
        let size = size_of::<T>() as libc::c_uint;
        // SAFETY: these only add and round.
        let (space, length) = unsafe { (libc::CMSG_SPACE(size), libc::CMSG_LEN(size)) };
        let space = space as usize;
        let Some(place) = self.control.0.get_mut(self.length..self.length + space) else {
            return;
        };
        place.fill(0);
        let header = place.as_mut_ptr().cast::<libc::cmsghdr>();
        // SAFETY: `place` has room for a header and the value behind it, and is aligned as
        // a header: the buffer is, and CMSG_SPACE keeps it so.
        unsafe {
            (*header).cmsg_level = level;
            (*header).cmsg_type = kind;
            (*header).cmsg_len = length as _;
            ptr::write_unaligned(libc::CMSG_DATA(header).cast(), value);
        }
        self.length += space;
    }
}

/// Takes one error out of the queue, if there is one: the inner value if it is ICMP's.
fn take_error(socket: RawFd) -> Option<Option<IcmpError>> {
    let mut name: libc::sockaddr_storage = zeroes();
    let mut control = NO_CONTROL;
    let mut header: libc::msghdr = zeroes();
    header.msg_name = ptr::from_mut(&mut name).cast();
    header.msg_namelen = size_of_val(&name) as libc::socklen_t;
    header.msg_control = control.0.as_mut_ptr().cast();
    header.msg_controllen = CONTROL as _;
    let flags = libc::MSG_ERRQUEUE | libc::MSG_DONTWAIT;
    // SAFETY: the header points to a name and a control buffer that live, with their true
    // sizes, and to no data.
    again(|| unsafe { libc::recvmsg(socket, &mut header, flags) as libc::c_int }).ok()?;
    let told = control_messages(&header).find_map(|(level, kind, data)| {
        let is_error = [
            (libc::IPPROTO_IP, libc::IP_RECVERR),
            (libc::IPPROTO_IPV6, libc::IPV6_RECVERR),
        ];
        is_error.contains(&(level, kind)).then_some(data)
    });
    Some(told.and_then(|told| icmp(told, address(&name)?)))
}

/// Behind the error is the address of whoever reports it.
fn icmp(told: &[u8], to: SocketAddr) -> Option<IcmpError> {
    let error = read::<libc::sock_extended_err>(told)?;
    let by = told.get(size_of_val(&error)..).and_then(address_in);
    let is_icmp = [libc::SO_EE_ORIGIN_ICMP, libc::SO_EE_ORIGIN_ICMP6].contains(&error.ee_origin);
    let is_about_mtu = error.ee_errno == libc::EMSGSIZE.unsigned_abs();
    is_icmp.then_some(IcmpError {
        to,
        kind: error.ee_type,
        code: error.ee_code,
        mtu: if is_about_mtu { error.ee_info } else { 0 },
        by: by.map(|by| by.ip()),
    })
}

/// The control messages that came with a message: level, type and data.
fn control_messages(
    header: &libc::msghdr,
) -> impl Iterator<Item = (libc::c_int, libc::c_int, &[u8])> {
    // SAFETY: the kernel wrote the control buffer of this header and its length.
    let mut next = unsafe { libc::CMSG_FIRSTHDR(header) };
    std::iter::from_fn(move || {
        // SAFETY: as above; these macros do not leave the buffer.
        let current = unsafe { next.as_ref() }?;
        next = unsafe { libc::CMSG_NXTHDR(header, current) };
        let length = (current.cmsg_len as usize).checked_sub(unsafe { libc::CMSG_LEN(0) } as usize);
        // SAFETY: the kernel wrote so many bytes behind the header.
        let data = unsafe { std::slice::from_raw_parts(libc::CMSG_DATA(current), length?) };
        Some((current.cmsg_level, current.cmsg_type, data))
    })
}

/// Plain data that the kernel writes: any bytes are one.
trait Plain: Copy {}
impl Plain for libc::c_int {}
impl Plain for libc::sa_family_t {}
impl Plain for libc::in_pktinfo {}
impl Plain for libc::in6_pktinfo {}
impl Plain for libc::sock_extended_err {}
impl Plain for libc::sockaddr_in {}
impl Plain for libc::sockaddr_in6 {}

fn read<T: Plain>(bytes: &[u8]) -> Option<T> {
    let bytes = bytes.get(..size_of::<T>())?;
    // SAFETY: there are enough bytes, and any are a T.
    Some(unsafe { ptr::read_unaligned(bytes.as_ptr().cast()) })
}

/// The libc structs are plain data and pointers.
fn zeroes<T: Zeroed>() -> T {
    // SAFETY: `Zeroed` says so.
    unsafe { mem::zeroed() }
}

/// Plain data for which all zeroes mean "nothing".
trait Zeroed {}
impl Zeroed for [libc::iovec; BATCH] {}
impl Zeroed for [libc::mmsghdr; BATCH] {}
impl Zeroed for libc::msghdr {}
impl Zeroed for libc::in_pktinfo {}
impl Zeroed for libc::in6_pktinfo {}
impl Zeroed for libc::sockaddr_storage {}

fn address(name: &libc::sockaddr_storage) -> Option<SocketAddr> {
    let start = ptr::from_ref(name).cast::<u8>();
    // SAFETY: a sockaddr_storage is plain bytes.
    let bytes = unsafe { std::slice::from_raw_parts(start, size_of_val(name)) };
    address_in(bytes)
}

fn address_in(bytes: &[u8]) -> Option<SocketAddr> {
    match libc::c_int::from(read::<libc::sa_family_t>(bytes)?) {
        libc::AF_INET => {
            let name: libc::sockaddr_in = read(bytes)?;
            let ip = Ipv4Addr::from(name.sin_addr.s_addr.to_ne_bytes());
            Some(SocketAddr::new(ip.into(), u16::from_be(name.sin_port)))
        }
        libc::AF_INET6 => {
            let name: libc::sockaddr_in6 = read(bytes)?;
            let ip = Ipv6Addr::from(name.sin6_addr.s6_addr);
            let port = u16::from_be(name.sin6_port);
            let address = std::net::SocketAddrV6::new(ip, port, 0, name.sin6_scope_id);
            Some(address.into())
        }
        _ => None,
    }
}

/// Writes an address, and says how long it is.
fn write_address(address: SocketAddr, name: &mut libc::sockaddr_in6) -> libc::socklen_t {
    match address {
        SocketAddr::V4(address) => {
            let place = ptr::from_mut(name).cast::<libc::sockaddr_in>();
            // SAFETY: a sockaddr_in is shorter than a sockaddr_in6, and aligned alike.
            unsafe {
                place.write(libc::sockaddr_in {
                    sin_family: libc::AF_INET as libc::sa_family_t,
                    sin_port: address.port().to_be(),
                    sin_addr: libc::in_addr {
                        s_addr: u32::from_ne_bytes(address.ip().octets()),
                    },
                    sin_zero: [0; 8],
                });
            }
            size_of::<libc::sockaddr_in>() as libc::socklen_t
        }
        SocketAddr::V6(address) => {
            *name = libc::sockaddr_in6 {
                sin6_family: libc::AF_INET6 as libc::sa_family_t,
                sin6_port: address.port().to_be(),
                sin6_flowinfo: 0,
                sin6_addr: libc::in6_addr {
                    s6_addr: address.ip().octets(),
                },
                sin6_scope_id: address.scope_id(),
            };
            size_of::<libc::sockaddr_in6>() as libc::socklen_t
        }
    }
}

fn set_option(
    socket: RawFd,
    level: libc::c_int,
    option: libc::c_int,
    value: libc::c_int,
) -> io::Result<()> {
    let length = size_of_val(&value) as libc::socklen_t;
    // SAFETY: the value lives, and the length is its own.
    let result =
        unsafe { libc::setsockopt(socket, level, option, ptr::from_ref(&value).cast(), length) };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Calls until no signal interrupts.
fn again(mut call: impl FnMut() -> libc::c_int) -> io::Result<usize> {
    loop {
        if let Ok(count) = usize::try_from(call()) {
            return Ok(count);
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
}
