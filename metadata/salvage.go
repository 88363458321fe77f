package metadata

import (
	"bytes"
	stderrors "errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"

	"github.com/pkg/errors"
)

// SalvageReport tells what NewStore saved of a damaged database. The records are those of the
// last transaction that the file knows, whole or not at all. A record that is lost is, to the
// cache, one that was never made: what was stored for it elsewhere has no owner any more.
type SalvageReport struct {
	// Path is the database, which is a new file now.
	Path string
	// Damaged is where the file was kept, just as it was found. Nobody but the user deletes it.
	Damaged string
	// Reason is the first damage that was found, an ErrCorrupt.
	Reason error
	// Records counts the records in the new file.
	Records int
	// Lost names, in byte order, the records that are known to have been there and of which a
	// part is missing.
	Lost []string
	// Gaps counts the places where there may have been records of which nothing is known. It is
	// not 0 if the damage hit more than single records.
	Gaps int
	// LostExternals names, in byte order, the records in the new file that are known to have lost
	// their external items.
	LostExternals []string
	// ExternalGaps counts the places where there may have been external items, of records that are
	// not known.
	ExternalGaps int
	// LostBuckets names, in byte order, the top-level buckets of others that were left out because
	// a part of them is missing.
	LostBuckets []string
	// LostPages are the numbers of the pages that were missed, in ascending order.
	LostPages []uint64
	// NewStoreID says that no store ID could be read. If there was one, what refers to it
	// elsewhere will not be recognised as this store's.
	NewStoreID bool
}

func (r *SalvageReport) clone() *SalvageReport {
	if r == nil {
		return nil
	}
	c := *r
	c.Lost, c.LostExternals = slices.Clone(c.Lost), slices.Clone(c.LostExternals)
	c.LostBuckets, c.LostPages = slices.Clone(c.LostBuckets), slices.Clone(c.LostPages)
	return &c
}

// salvageOps is what a test may put itself in the place of.
type salvageOps struct {
	step func(name string) // called after each step that a crash may follow
	link func(oldname, newname string) error
}

// The names beside a database: the new file until it is complete, and damaged ones.
const (
	salvageSuffix = ".salvage"
	damagedFormat = "%s.damaged-%d"
)

// salvage replaces the damaged file at path, which f has open and locked, by one with what can
// be read of it, and returns that, open and locked. Until the new file is complete and on disk
// the directory has the damaged one at its place, and from then on the new one; nothing ever
// writes to the damaged one. Until then it can fail, which changes nothing.
func salvage(f *os.File, path string, reason error, ops salvageOps) (_ *os.File, _ *SalvageReport, err error) {
	// A link to the database stays one.
	target, err := filepath.EvalSymlinks(path)
	if err != nil {
		return nil, nil, errors.WithStack(err)
	}
	report := &SalvageReport{Path: path, Reason: reason}
	temp := target + salvageSuffix
	if err := os.Remove(temp); err != nil && !errors.Is(err, fs.ErrNotExist) { // of a process that died
		return nil, nil, errors.WithStack(err)
	}
	var fresh *os.File
	replaced := false
	defer func() {
		if err == nil {
			return
		}
		if fresh != nil {
			err = stderrors.Join(err, fresh.Close())
		}
		if replaced {
			return
		}
		for _, name := range []string{temp, report.Damaged} {
			if rm := os.Remove(name); name != "" && !errors.Is(rm, fs.ErrNotExist) {
				err = stderrors.Join(err, rm)
			}
		}
	}()
	if err := salvageTo(f, temp, report); err != nil {
		return nil, nil, err
	}
	ops.step("written")
	if fresh, err = os.OpenFile(temp, os.O_RDWR, 0); err != nil {
		return nil, nil, errors.WithStack(err)
	}
	if _, _, err := verifyLocked(fresh); err != nil {
		return nil, nil, errors.WithMessage(err, "the new file")
	}
	if err := ownedLike(f, fresh); err != nil {
		return nil, nil, err
	}
	if report.Damaged, err = keep(f, target, ops.link); err != nil {
		return nil, nil, errors.Wrap(err, "keeping the damaged file")
	}
	ops.step("kept")
	dir := filepath.Dir(target)
	if err := syncDir(dir); err != nil {
		return nil, nil, errors.WithStack(err)
	}
	if err := os.Rename(temp, target); err != nil {
		return nil, nil, errors.WithStack(err)
	}
	replaced = true
	ops.step("replaced")
	return fresh, report, errors.WithStack(syncDir(dir))
}

// ownedLike gives a file the owner and the mode of another, whose users would lose it otherwise.
func ownedLike(from, to *os.File) error {
	fi, err := from.Stat()
	if err != nil {
		return errors.WithStack(err)
	}
	if err := copyOwner(fi, to); err != nil {
		return errors.Wrap(err, "giving the new file the owner of the damaged one")
	}
	if err := to.Chmod(fi.Mode().Perm()); err != nil {
		return errors.WithStack(err)
	}
	return errors.WithStack(to.Sync())
}

// keep gives a file a second name beside its own that nobody has, and returns it. Where the
// filesystem has no links it makes a copy.
func keep(f *os.File, path string, link func(oldname, newname string) error) (string, error) {
	fi, err := f.Stat()
	if err != nil {
		return "", errors.WithStack(err)
	}
	for n := 1; ; n++ {
		name := fmt.Sprintf(damagedFormat, path, n)
		if other, err := os.Lstat(name); err == nil {
			if os.SameFile(fi, other) {
				return name, nil // a process died between this and putting the new file in place
			}
			continue
		}
		err := link(path, name)
		if err != nil && !errors.Is(err, fs.ErrExist) {
			err = copyTo(f, name, fi.Mode().Perm())
		}
		if err == nil || !errors.Is(err, fs.ErrExist) {
			return name, err
		}
	}
}

// copyTo copies a file to a new one, which is on disk when it returns, or is not there.
func copyTo(f *os.File, name string, mode fs.FileMode) (err error) {
	to, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	if err != nil {
		return errors.WithStack(err)
	}
	defer func() {
		if err = stderrors.Join(err, to.Close()); err != nil {
			err = errors.WithStack(stderrors.Join(err, os.Remove(name)))
		}
	}()
	if _, err := io.Copy(to, io.NewSectionReader(f, 0, 1<<62)); err != nil {
		return err
	}
	return to.Sync()
}

// salvager moves what can be read to a new file.
type salvager struct {
	*reader
	out    *salvageWriter
	report *SalvageReport

	rootGaps, mainGaps, externalGaps []gap
}

// salvageTo writes what can be read of a damaged file into a new one, and syncs that.
func salvageTo(f *os.File, name string, report *SalvageReport) (err error) {
	fi, err := f.Stat()
	if err != nil {
		return errors.WithStack(err)
	}
	s := &salvager{report: report}
	meta, err := readMeta(f, fi.Size())
	switch {
	case err == nil:
		s.reader = newReader(f, fi.Size(), meta)
	case errors.Is(err, ErrCorrupt):
		// Nothing tells which of the states that still are in the file is the last one. The
		// store ID is the same in all.
		size := meta.pageSize
		if size == 0 {
			size, _ = guessPageSize(f, fi.Size())
		}
		s.reader = newReader(f, fi.Size(), boltMeta{pageSize: max(size, 1<<10), freelist: noFreelist, pages: 1 << 62})
	default:
		return err
	}
	if s.out, err = newSalvageWriter(name); err != nil {
		return err
	}
	defer func() { err = stderrors.Join(err, s.out.close()) }()
	if err := s.everything(); err != nil {
		return err
	}
	report.Lost = slices.Compact(slices.Sorted(slices.Values(report.Lost)))
	report.LostExternals = slices.Compact(slices.Sorted(slices.Values(report.LostExternals)))
	report.LostPages = slices.Sorted(maps.Keys(s.lost))
	return s.out.finish()
}

// everything moves the buckets one after the other: records before what needs them to be there.
func (s *salvager) everything() error {
	if err := s.claim(s.meta.root, within{}, 0); err != nil {
		return err
	}
	if err := s.freelist(); err != nil {
		return err
	}
	strays, err := s.strays()
	if err != nil {
		return err
	}
	buckets := map[string]elem{}
	if err := s.walk(s.meta.root, within{}, func(e elem) error {
		if e.bucket {
			buckets[string(e.key)] = e
		}
		return nil
	}, func(g gap) { s.rootGaps = append(s.rootGaps, g) }); err != nil {
		return err
	}
	if err := s.list(buckets, mainBucket, &s.mainGaps, s.row); err != nil {
		return err
	}
	// What strays among the external items is known by where there are gaps, so these are found first.
	if err := s.list(buckets, externalBucket, &s.externalGaps, func(elem) error { return nil }); err != nil {
		return err
	}
	if err := s.addStrays(strays); err != nil {
		return err
	}
	s.externalGaps = nil
	if err := s.list(buckets, externalBucket, &s.externalGaps, s.external); err != nil {
		return err
	}
	s.report.Gaps, s.report.ExternalGaps = len(s.mainGaps), len(s.externalGaps)
	if err := s.own(buckets); err != nil {
		return err
	}
	return s.others(buckets)
}

// list walks a top-level bucket and notes its gaps. It is one if it was in a part of the root
// that cannot be read.
func (s *salvager) list(buckets map[string]elem, name []byte, gaps *[]gap, visit func(elem) error) error {
	e, ok := buckets[string(name)]
	if !ok {
		if slices.ContainsFunc(s.rootGaps, func(g gap) bool { return covers(g, name) }) {
			*gaps = append(*gaps, gap{})
		}
		return nil
	}
	return s.walkBucket(e, visit, func(g gap) { *gaps = append(*gaps, g) })
}

// covers tells whether a key can be in a gap.
func covers(g gap, key []byte) bool {
	return bytes.Compare(g.low, key) <= 0 && (g.high == nil || bytes.Compare(key, g.high) < 0)
}

// row moves a record if all of it can be read.
func (s *salvager) row(e elem) error {
	if !e.bucket {
		return nil
	}
	c, complete, err := s.load(e, 0)
	if err != nil {
		return err
	}
	return s.addRow(string(e.key), c, complete)
}

func (s *salvager) addRow(id string, c *content, complete bool) error {
	indexes, ok := rowInOrder(id, c)
	if !complete || !ok {
		s.report.Lost = append(s.report.Lost, id)
		return nil
	}
	s.report.Records++
	return s.out.row(id, c, indexes)
}

// external moves the external items of a record that was moved.
func (s *salvager) external(e elem) error {
	id := string(e.key)
	if !e.bucket || !s.out.has(id) {
		return nil
	}
	c, complete, err := s.load(e, 0)
	if err != nil {
		return err
	}
	if !complete || !storable(e.key) {
		s.report.LostExternals = append(s.report.LostExternals, id)
		return nil
	}
	return s.out.bucket(externalBucket, e.key, c)
}

// own moves this library's own bucket, and looks for a store ID in every page if that is lost.
func (s *salvager) own(buckets map[string]elem) error {
	if e, ok := buckets[string(ownBucket)]; ok {
		c, complete, err := s.load(e, 0)
		if err != nil {
			return err
		}
		if complete && validStoreID(storeIDOf(c)) {
			return s.out.bucket(nil, ownBucket, c)
		}
	} else if !slices.ContainsFunc(s.rootGaps, func(g gap) bool { return covers(g, ownBucket) }) {
		return nil // there was none
	}
	id, err := s.findStoreID()
	if err != nil {
		return err
	}
	if id == "" {
		s.report.NewStoreID = true
		return nil
	}
	return s.out.bucket(nil, ownBucket, &content{elems: []contentElem{{key: storeIDKey, value: []byte(id)}}})
}

// findStoreID looks for the store ID in pages of all ages, in which it is the same.
func (s *salvager) findStoreID() (string, error) {
	found := ""
	for id := uint64(2); id < s.limit; id++ {
		n, ok, err := s.read(id)
		if err != nil {
			return "", err
		}
		if !ok || n.branch {
			continue
		}
		for _, e := range n.elems {
			if !e.bucket || !bytes.Equal(e.key, ownBucket) || order.Uint64(e.value) != 0 {
				continue
			}
			c, _, err := s.load(e, 0)
			if err != nil {
				return "", err
			}
			id := storeIDOf(c)
			if !validStoreID(id) || found != "" && found != id {
				return "", nil
			}
			found = id
		}
	}
	return found, nil
}

// storeIDOf returns the store ID in this library's bucket.
func storeIDOf(c *content) string {
	for _, e := range c.elems {
		if e.bucket == nil && bytes.Equal(e.key, storeIDKey) {
			return string(e.value)
		}
	}
	return ""
}

// others moves the top-level buckets of others, each as a whole: nothing says what a part of it is worth.
func (s *salvager) others(buckets map[string]elem) error {
	for _, name := range slices.Sorted(maps.Keys(buckets)) {
		switch name {
		case string(mainBucket), string(indexBucket), string(externalBucket), string(ownBucket):
			continue
		}
		c, complete, err := s.load(buckets[name], 0)
		if err != nil {
			return err
		}
		if !complete || !storable([]byte(name)) {
			s.report.LostBuckets = append(s.report.LostBuckets, name)
			continue
		}
		if err := s.out.bucket(nil, []byte(name), c); err != nil {
			return err
		}
	}
	return nil
}
