package compat

import (
	"github.com/containerd/errdefs"
	bolt "go.etcd.io/bbolt"

	"github.com/layercache/cache/metadata"
)

// OurItems is the library's store, through the part of its API that BuildKit's has as well.
type OurItems struct {
	Store *metadata.Store
}

// Apply implements Target with the library's items.
func (s OurItems) Apply(id string, steps []Step) error {
	item, _ := s.Store.Get(id)
	for _, step := range steps {
		switch {
		case step.External != "":
			if err := item.SetExternal(step.External, step.Data); err != nil {
				return err
			}
		case step.DropIndex != "":
			item.Queue(func(b *bolt.Bucket) error { return item.ClearIndex(b.Tx(), step.DropIndex) })
		case step.Key == "":
			if err := item.Commit(); err != nil {
				return err
			}
			if err := s.Store.Clear(id); err != nil {
				return err
			}
			item, _ = s.Store.Get(id)
		case step.Value == nil && step.Index == "":
			item.Queue(func(b *bolt.Bucket) error { return item.SetValue(b, step.Key, nil) })
		default:
			v := &metadata.Value{}
			if step.Value != nil {
				var err error
				if v, err = metadata.NewValue(step.Value); err != nil {
					return err
				}
			}
			v.Index = step.Index
			item.Queue(func(b *bolt.Bucket) error { return item.SetValue(b, step.Key, v) })
		}
	}
	return item.Commit()
}

// OurWriter is the library's store, through the writer that its cache manager uses.
type OurWriter struct {
	Store *metadata.Store
}

// Apply implements Target with one Write.
func (s OurWriter) Apply(id string, steps []Step) error {
	return s.Store.Write(func(w *metadata.Writer) error {
		row, err := openRow(w, id)
		if err != nil {
			return err
		}
		for _, step := range steps {
			if step.Key == "" && step.External == "" && step.DropIndex == "" {
				if err := w.Remove(id); err != nil {
					return err
				}
				row = nil
				continue
			}
			if row == nil {
				if row, err = w.Create(id); err != nil {
					return err
				}
			}
			if err := applyRow(row, step); err != nil {
				return err
			}
		}
		return nil
	})
}

func openRow(w *metadata.Writer, id string) (*metadata.RowWriter, error) {
	row, err := w.Row(id)
	if errdefs.IsNotFound(err) {
		return w.Create(id)
	}
	return row, err
}

func applyRow(row *metadata.RowWriter, step Step) error {
	switch {
	case step.External != "":
		return row.SetExternal(step.External, step.Data)
	case step.DropIndex != "":
		return row.ClearIndex(step.DropIndex)
	case step.Value != nil:
		return row.Set(step.Key, step.Value, step.Index)
	case step.Index != "":
		return row.SetRaw(step.Key, metadata.Value{Index: step.Index})
	}
	return row.Clear(step.Key)
}
