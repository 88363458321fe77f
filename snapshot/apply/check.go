package apply

import (
	"archive/tar"
	"math"
	"os"
	"path/filepath"
	"strings"
)

// check decides on an entry that is not a whiteout, and adapts its header. Entry is its name in the archive.
func (l *layer) check(entry string, hdr *tar.Header, at place) (accept bool, err error) {
	// (uid_t)-1 means "leave it as it is" to the system.
	if hdr.Uid < 0 || hdr.Gid < 0 || int64(hdr.Uid) >= math.MaxUint32 || int64(hdr.Gid) >= math.MaxUint32 {
		return false, refuse(entry, "no user or group has its number")
	}
	switch hdr.Typeflag {
	case tar.TypeDir, tar.TypeFifo, tar.TypeReg:
	case tar.TypeGNUSparse:
		hdr.Typeflag = tar.TypeReg // package tar gives its content with the holes filled
	case tar.TypeSymlink:
		if hdr.Linkname == "" || len(hdr.Linkname) > maxTarget || strings.ContainsRune(hdr.Linkname, 0) {
			return false, refuse(entry, "no symbolic link has its target")
		}
	case tar.TypeLink:
		if err := l.link(entry, hdr, at); err != nil {
			return false, err
		}
	case tar.TypeChar, tar.TypeBlock:
		if accept, err := l.device(entry, hdr); err != nil || !accept {
			return false, err
		}
	default:
		return false, refuse(entry, "entries of type "+quote(string(rune(hdr.Typeflag)))+" are unknown")
	}
	switch {
	case l.squash:
		l.squashed = l.squashed || hdr.Uid != os.Geteuid() || hdr.Gid != os.Getegid()
	case !l.rights.owner(hdr.Uid, hdr.Gid):
		return false, &OwnerError{Entry: entry, UID: hdr.Uid, GID: hdr.Gid}
	}
	return true, l.xattrs(entry, hdr)
}

// link checks a hard link and lets it name the place that its target really has.
func (l *layer) link(entry string, hdr *tar.Header, at place) error {
	target, err := components(entry, filepath.ToSlash(hdr.Linkname))
	if err != nil {
		return err
	}
	if target == nil {
		return refuse(entry, "it is a hard link to the root")
	}
	to, err := l.existing(entry, target)
	if err != nil {
		return err
	}
	// What is at the entry's own place is removed first.
	if to.name == at.name || strings.HasPrefix(to.name, at.name+string(filepath.Separator)) {
		return refuse(entry, "it is a hard link to itself")
	}
	hdr.Linkname = to.name
	return nil
}

func (l *layer) device(entry string, hdr *tar.Header) (bool, error) {
	// What the kernel has bits for.
	if hdr.Devmajor < 0 || hdr.Devmajor >= 1<<12 || hdr.Devminor < 0 || hdr.Devminor >= 1<<20 {
		return false, refuse(entry, "no device has its number")
	}
	if hdr.Typeflag == tar.TypeChar && hdr.Devmajor == 0 && hdr.Devminor == 0 {
		return false, refuse(entry, "its device number is overlayfs's mark for deletions")
	}
	if l.squash {
		l.squashed = true
		return false, nil
	}
	if !l.rights.device {
		return false, &PrivilegeError{Entry: entry, What: "a device node"}
	}
	return true, nil
}

// paxXattr begins the names of records that hold extended attributes.
const paxXattr = "SCHILY.xattr."

func (l *layer) xattrs(entry string, hdr *tar.Header) error {
	for record := range hdr.PAXRecords {
		name, ok := strings.CutPrefix(record, paxXattr)
		if !ok {
			continue
		}
		switch {
		case strings.HasPrefix(name, "trusted."), strings.HasPrefix(name, "user.overlay."):
			// Overlayfs would take its own for instructions, and the rest of the former nobody can read.
			delete(hdr.PAXRecords, record)
		case !strings.HasPrefix(name, "security."):
		case l.squash:
			l.squashed = true
			delete(hdr.PAXRecords, record)
		case !l.rights.security:
			return &PrivilegeError{Entry: entry, What: "the extended attribute " + quote(name)}
		}
	}
	return nil
}

// userXattrs tells whether the entry has extended attributes that take the right to write it.
func userXattrs(hdr *tar.Header) bool {
	for record := range hdr.PAXRecords {
		if strings.HasPrefix(record, paxXattr+"user.") {
			return true
		}
	}
	return false
}
