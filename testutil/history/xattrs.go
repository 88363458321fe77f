package history

import "encoding/binary"

// xattr is an attribute that operations set.
type xattr struct {
	name, value string
	// files and dirs tell that it is for one of the two only.
	files, dirs bool
}

// Xattrs are the attributes that operations set, by the names that histories have for them.
var Xattrs = map[string]xattr{
	"user":     {name: "user.note", value: "one"},
	"user2":    {name: "user.note", value: "two"},
	"empty":    {name: "user.empty"},
	"trusted":  {name: "trusted.note", value: "hidden"},
	"cap":      {name: capability, value: fileCapability(2, 1<<13, 0), files: true},
	"cap2":     {name: capability, value: fileCapability(2, 1<<10, 0), files: true},
	"cap3":     {name: capability, value: fileCapability(3, 1<<13, 1000), files: true},
	"acl":      {name: "system.posix_acl_access", value: acl(7, 5)},
	"acl2":     {name: "system.posix_acl_access", value: acl(8, 7)},
	"default":  {name: "system.posix_acl_default", value: acl(7, 7), dirs: true},
	"default2": {name: "system.posix_acl_default", value: acl(8, 4), dirs: true},
}

// fileCapability is a set of permitted and effective capabilities in the kernel's format of that version.
func fileCapability(version, permitted, root uint32) string {
	b := binary.LittleEndian.AppendUint32(nil, version<<24|1)
	for _, v := range []uint32{permitted, 0, 0, 0} {
		b = binary.LittleEndian.AppendUint32(b, v)
	}
	if version == 3 {
		b = binary.LittleEndian.AppendUint32(b, root)
	}
	return string(b)
}

// acl gives a user some permissions, besides rwxr-x---.
func acl(user uint32, perm uint16) string {
	b := binary.LittleEndian.AppendUint32(nil, 2)
	const nobody = ^uint32(0)
	for _, e := range []struct {
		tag, perm uint16
		id        uint32
	}{{0x01, 7, nobody}, {0x02, perm, user}, {0x04, 5, nobody}, {0x10, 7, nobody}, {0x20, 0, nobody}} {
		b = binary.LittleEndian.AppendUint16(b, e.tag)
		b = binary.LittleEndian.AppendUint16(b, e.perm)
		b = binary.LittleEndian.AppendUint32(b, e.id)
	}
	return string(b)
}
