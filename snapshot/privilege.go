package snapshot

import "github.com/containerd/containerd/v2/core/mount"

// MayMount returns nil if this process may mount, else an error of category permission denied or, on a system where nothing
// can be mounted, not implemented. On Linux it takes CAP_SYS_ADMIN over the process's mount namespace. A
// mount can fail for other reasons all the same: a seccomp filter for instance.
func MayMount() error { return mayMount() }

// AdaptMounts returns mounts as this process has to mount them. In a Linux user namespace bind mounts take over the flags of
// their source's mount, since the kernel refuses to drop them there. The argument is not changed.
func AdaptMounts(mounts []mount.Mount) ([]mount.Mount, error) { return platformMounts(mounts) }
