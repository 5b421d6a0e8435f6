//! Bytes from one socket to another through a pipe, without a copy: splice(2). Where the
//! system has none there are no pipes.

#[cfg(target_os = "linux")]
mod system {
    use std::io;
    use std::os::fd::{AsFd, OwnedFd};

    use rustix::pipe::{PipeFlags, SpliceFlags, fcntl_setpipe_size, pipe_with, splice};
    use tokio::net::TcpStream;

    /// A pipe between two sockets.
    #[derive(Debug)]
    pub(crate) struct Pipe {
        read: OwnedFd,
        write: OwnedFd,
    }

    const FLAGS: SpliceFlags = SpliceFlags::MOVE.union(SpliceFlags::NONBLOCK);

    impl Pipe {
        /// A pipe that holds `size` bytes, or fewer if the administrator wants it so.
        pub(crate) fn new(size: usize) -> io::Result<Self> {
            let (read, write) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
            let _ = fcntl_setpipe_size(&write, size);
            Ok(Self { read, write })
        }

        /// Takes up to `most` bytes that a socket has received. The pipe must be empty; 0 is
        /// the end of the stream.
        pub(crate) fn fill(&self, from: &TcpStream, most: usize) -> io::Result<usize> {
            Ok(splice(from.as_fd(), None, &self.write, None, most, FLAGS)?)
        }

        /// Gives up to `length` of the bytes to a socket.
        pub(crate) fn drain(&self, to: &TcpStream, length: usize) -> io::Result<usize> {
            Ok(splice(&self.read, None, to.as_fd(), None, length, FLAGS)?)
        }
    }
}

#[cfg(not(target_os = "linux"))]
mod system {
    use std::io;

    use tokio::net::TcpStream;

    #[derive(Debug)]
    pub(crate) struct Pipe(std::convert::Infallible);

    impl Pipe {
        pub(crate) fn new(_size: usize) -> io::Result<Self> {
            Err(io::ErrorKind::Unsupported.into())
        }

        pub(crate) fn fill(&self, _from: &TcpStream, _most: usize) -> io::Result<usize> {
            match self.0 {}
        }

        pub(crate) fn drain(&self, _to: &TcpStream, _length: usize) -> io::Result<usize> {
            match self.0 {}
        }
    }
}

pub(crate) use system::Pipe;
