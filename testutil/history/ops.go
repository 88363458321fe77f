package history

import (
	"io/fs"
	"math/rand/v2"
	"os"
	"path"
	"path/filepath"
	"strings"
	"time"

	"github.com/containerd/continuity/sysx"
	"github.com/pkg/errors"

	"github.com/layercache/cache/testutil/tree"
)

// Verb is what an Op does.
type Verb string

// The verbs. Each can be done in every tree: what is in the way of a path is removed first, and what has nothing to work
// on does nothing.
const (
	Write    Verb = "write"    // a new file of Size bytes
	Modify   Verb = "modify"   // the first bytes of a file, in place and thus under all its names
	Mkdir    Verb = "mkdir"    // a directory, which may be there
	Recreate Verb = "recreate" // a directory, which loses what was in it
	Symlink  Verb = "symlink"  // to To
	Fifo     Verb = "fifo"
	Socket   Verb = "socket"
	Char     Verb = "char" // device 1:Size
	Block    Verb = "block"
	Remove   Verb = "remove"
	Rename   Verb = "rename" // Path to To
	Swap     Verb = "swap"   // Path and To
	Link     Verb = "link"   // Path also becomes To
	Chmod    Verb = "chmod"
	Chown    Verb = "chown"
	SetXattr Verb = "setxattr"
	DelXattr Verb = "delxattr"
	Touch    Verb = "touch"
)

// Op is one change of a tree, as programs make it in a container.
type Op struct {
	Do   Verb   `json:"do"`
	Path string `json:"path"`
	// To is another path, or a symbolic link's target.
	To string `json:"to,omitempty"`
	// Mode is the mode of what is made, in the system's numbers; Owner that of user and group.
	Mode  uint32 `json:"mode,omitempty"`
	Owner int    `json:"owner,omitempty"`
	// Size of a file, and what its content depends on besides. A file with a Hole has content only at its end.
	Size int  `json:"size,omitempty"`
	Fill int  `json:"fill,omitempty"`
	Hole bool `json:"hole,omitempty"`
	// Second, if not 0, is the whole second of the modification time. Else it is one that no other operation gives.
	Second int `json:"second,omitempty"`
	// Xattr names an attribute: one of Xattrs.
	Xattr string `json:"xattr,omitempty"`
	// Quiet leaves the time of a file alone where only its attributes change.
	Quiet bool `json:"quiet,omitempty"`
}

// Names of components with a meaning: they are not for text.
var names = map[string]string{
	"LONG":  strings.Repeat("l", 255),
	"BYTES": "\xff\xfe",
	"LINE":  "new\nline",
}

func resolve(p string) string {
	parts := strings.Split(p, "/")
	for i, part := range parts {
		if name, ok := names[part]; ok {
			parts[i] = name
		}
	}
	return filepath.Join(parts...)
}

// Apply does the step's operations in dir, whose path must not lead through symbolic links. Step n of a history gives times of
// its own.
func (s Step) Apply(dir string, n int) error {
	for i, op := range s.Ops {
		w := work{Op: op, dir: dir, rel: resolve(op.Path), now: time.Unix(1_500_000_000+int64(n)*1000+int64(i), 1+int64(n)*1000+int64(i))}
		if op.Second != 0 {
			w.now = time.Unix(1_400_000_000+int64(op.Second), 0)
		}
		w.at = filepath.Join(dir, w.rel)
		if err := w.do(); err != nil {
			return errors.Wrapf(err, "operation %d, %s %s", i, op.Do, op.Path)
		}
	}
	return nil
}

// work is an operation that is being done.
type work struct {
	Op
	dir, rel, at string
	now          time.Time
}

func (w work) do() error {
	switch w.Do {
	case Write, Mkdir, Recreate, Symlink, Fifo, Socket, Char, Block:
		return w.make()
	case Rename:
		return w.rename()
	case Swap:
		return w.swap()
	case Link:
		return w.link()
	}
	info, err := lstat(w.dir, w.rel)
	if err != nil || info == nil {
		return err
	}
	return w.change(info)
}

// lstat returns nil if there is nothing, or what leads there is no directory.
func lstat(dir, rel string) (fs.FileInfo, error) {
	at := dir
	parts := strings.Split(rel, string(filepath.Separator))
	for i, part := range parts {
		at = filepath.Join(at, part)
		info, err := os.Lstat(at)
		if os.IsNotExist(err) {
			return nil, nil //nolint:nilnil // as documented
		}
		if err != nil || i == len(parts)-1 {
			return info, err
		}
		if !info.IsDir() {
			return nil, nil //nolint:nilnil // as documented
		}
	}
	return nil, nil //nolint:nilnil // there is at least one part
}

// clearWay makes the directories that rel is in, in place of what else is there.
func clearWay(dir, rel string) error {
	at := dir
	parts := strings.Split(path.Dir(filepath.ToSlash(rel)), "/")
	for _, part := range parts {
		if part == "." {
			continue
		}
		at = filepath.Join(at, part)
		if info, err := os.Lstat(at); err == nil && info.IsDir() {
			continue
		}
		if err := os.RemoveAll(at); err != nil {
			return err
		}
		if err := os.Mkdir(at, 0o755); err != nil {
			return err
		}
	}
	return nil
}

func (w work) make() error {
	if err := clearWay(w.dir, w.rel); err != nil {
		return err
	}
	info, err := os.Lstat(w.at)
	if err != nil || w.Do != Mkdir || !info.IsDir() {
		if err := os.RemoveAll(w.at); err != nil {
			return err
		}
		if err := w.create(); err != nil {
			return err
		}
	}
	if w.Owner != 0 {
		if err := os.Lchown(w.at, w.Owner, w.Owner); err != nil {
			return err
		}
	}
	if w.Mode != 0 && w.Do != Symlink {
		if err := os.Chmod(w.at, fileMode(w.Mode)); err != nil {
			return err
		}
	}
	if w.Do == Mkdir || w.Do == Recreate {
		return nil // gets its time from what happens in it, as directories do
	}
	return setTime(w.at, w.now)
}

func (w work) create() error {
	switch w.Do {
	case Write:
		return w.write()
	case Mkdir, Recreate:
		return os.Mkdir(w.at, 0o755)
	case Symlink:
		return os.Symlink(w.To, w.at)
	case Fifo:
		return makeNode(w.at, tree.KindFifo, 0, 0)
	case Socket:
		return makeNode(w.at, tree.KindSocket, 0, 0)
	case Char:
		return makeNode(w.at, tree.KindChar, 1, uint32(w.Size))
	case Block:
		return makeNode(w.at, tree.KindBlock, 1, uint32(w.Size))
	}
	return errors.Errorf("unknown operation %q", w.Do)
}

// hole is where the content of a sparse file begins.
const hole = 200 << 10

func (w work) write() error {
	f, err := os.OpenFile(w.at, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return err
	}
	offset := int64(0)
	if w.Hole {
		offset = hole
	}
	_, err = f.WriteAt(content(w.Size, w.Fill), offset)
	if err == nil && w.Hole {
		err = f.Truncate(2 * hole)
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	return err
}

func content(size, fill int) []byte {
	data := make([]byte, size)
	r := rand.New(rand.NewPCG(uint64(fill), 0))
	for i := range data {
		data[i] = byte('a' + r.IntN(26))
	}
	return data
}

func (w work) rename() error {
	to := resolve(w.To)
	info, err := lstat(w.dir, w.rel)
	if err != nil || info == nil || nested(w.rel, to) {
		return err
	}
	if err := clearWay(w.dir, to); err != nil {
		return err
	}
	if err := os.RemoveAll(filepath.Join(w.dir, to)); err != nil {
		return err
	}
	return move(w.at, filepath.Join(w.dir, to))
}

func (w work) swap() error {
	to := resolve(w.To)
	for _, rel := range []string{w.rel, to} {
		if info, err := lstat(w.dir, rel); err != nil || info == nil {
			return err
		}
	}
	if nested(w.rel, to) {
		return nil
	}
	other, aside := filepath.Join(w.dir, to), filepath.Join(w.dir, "aside")
	for _, names := range [][2]string{{w.at, aside}, {other, w.at}, {aside, other}} {
		if err := move(names[0], names[1]); err != nil {
			return err
		}
	}
	return nil
}

// nested tells whether one path is the other or lies in it.
func nested(a, b string) bool {
	a, b = a+string(filepath.Separator), b+string(filepath.Separator)
	return strings.HasPrefix(a, b) || strings.HasPrefix(b, a)
}

// move renames, or copies and removes where the filesystem wants that (overlayfs with directories from below).
func move(from, to string) error {
	err := os.Rename(from, to)
	if !otherDevice(err) {
		return err
	}
	t, err := tree.Read(from)
	if err != nil {
		return err
	}
	if err := os.Mkdir(to, 0o755); err != nil {
		return err
	}
	if err := tree.Write(to, t.Entries()...); err != nil {
		return err
	}
	return os.RemoveAll(from)
}

func (w work) link() error {
	to := resolve(w.To)
	info, err := lstat(w.dir, w.rel)
	if err != nil || info == nil || nested(w.rel, to) {
		return err
	}
	if info.IsDir() || info.Mode()&(fs.ModeNamedPipe|fs.ModeSocket) != 0 {
		return nil
	}
	if err := clearWay(w.dir, to); err != nil {
		return err
	}
	at := filepath.Join(w.dir, to)
	if err := os.RemoveAll(at); err != nil {
		return err
	}
	return os.Link(w.at, at)
}

// change does what needs something to work on.
func (w work) change(info fs.FileInfo) error {
	regular, dir := info.Mode().IsRegular(), info.IsDir()
	switch w.Do {
	case Remove:
		return os.RemoveAll(w.at)
	case Modify:
		if !regular {
			return nil
		}
		f, err := os.OpenFile(w.at, os.O_WRONLY, 0)
		if err != nil {
			return err
		}
		_, err = f.WriteAt(content(w.Size, w.Fill), 0)
		if cerr := f.Close(); err == nil {
			err = cerr
		}
		if err != nil {
			return err
		}
		return setTime(w.at, w.now)
	case Chmod:
		if info.Mode()&fs.ModeSymlink != 0 {
			return nil
		}
		return os.Chmod(w.at, fileMode(w.Mode))
	case Chown:
		return os.Lchown(w.at, w.Owner, w.Owner)
	case SetXattr, DelXattr:
		if !regular && !dir {
			return nil
		}
		if err := w.setXattr(dir); err != nil || dir || w.Quiet {
			return err
		}
		return setTime(w.at, w.now)
	case Touch:
		return setTime(w.at, w.now)
	}
	return errors.Errorf("unknown operation %q", w.Do)
}

func (w work) setXattr(dir bool) error {
	x := Xattrs[w.Xattr]
	if x.name == "" {
		return errors.Errorf("unknown attribute %q", w.Xattr)
	}
	if x.dirs && !dir || x.files && dir {
		return nil
	}
	if w.Do == SetXattr {
		return sysx.LSetxattr(w.at, x.name, []byte(x.value), 0)
	}
	if err := sysx.LRemovexattr(w.at, x.name); err != nil && !noAttribute(err) {
		return err
	}
	return nil
}

// fileMode is a mode in the system's numbers as package os has it.
func fileMode(mode uint32) fs.FileMode {
	m := fs.FileMode(mode) & fs.ModePerm
	for flag, bit := range map[uint32]fs.FileMode{0o4000: fs.ModeSetuid, 0o2000: fs.ModeSetgid, 0o1000: fs.ModeSticky} {
		if mode&flag != 0 {
			m |= bit
		}
	}
	return m
}
