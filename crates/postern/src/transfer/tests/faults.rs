//! Files that change, peers that vanish, disks that fill up.
