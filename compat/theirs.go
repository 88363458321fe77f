package compat

import (
	"github.com/moby/buildkit/cache/metadata"
	bolt "go.etcd.io/bbolt"
)

// Theirs is BuildKit's store.
type Theirs struct {
	Store *metadata.Store
}

// Apply implements Target with BuildKit's items.
func (s Theirs) Apply(id string, steps []Step) error {
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
