// Package pruning says in the terms of both sides what is to be pruned, and what was.
package pruning

import (
	"context"
	"strings"

	"github.com/containerd/containerd/v2/pkg/gc"
)

// Policy is what a prune is to do.
type Policy struct {
	// Keep, if not 0, is how many bytes may stay, and a prune ends as soon as there are no more. Otherwise everything goes
	// that is not in use.
	Keep int64
	// Spare, if not empty, is the ID of a record that the policy's filter leaves alone.
	Spare string
	// Type, if not empty, is the type of the records that the policy's filter lets through, and no others.
	Type string
	// Collect, if not nil, is called in place of the garbage collection with which the prune ends, and may run that.
	Collect func(run func() error) error
}

// Filter are the policy's filters.
func (p Policy) Filter() []string {
	var all []string
	if p.Spare != "" {
		all = append(all, "id!="+p.Spare)
	}
	if p.Type != "" {
		all = append(all, "type=="+p.Type)
	}
	if len(all) == 0 {
		return nil
	}
	return []string{strings.Join(all, ",")}
}

// Result is what a prune reported.
type Result struct {
	Records int
	Bytes   int64
}

// Collector is a manager's garbage collection. Its prunes are run one at a time.
type Collector struct {
	// Backend is what collects.
	Backend func(context.Context) (gc.Stats, error)

	instead func(run func() error) error
}

// Collect is for the manager to call.
func (c *Collector) Collect(ctx context.Context) (stats gc.Stats, err error) {
	run := func() (err error) {
		stats, err = c.Backend(ctx)
		return err
	}
	if c.instead != nil {
		err = c.instead(run)
	} else {
		err = run()
	}
	return stats, err
}

// Prune runs a prune of a manager and counts what it reports. Info is the manager's type of a report.
func Prune[Info any](c *Collector, p Policy, size func(Info) int64, prune func(ch chan Info) error) (Result, error) {
	c.instead = p.Collect
	defer func() { c.instead = nil }()
	var r Result
	ch, counted := make(chan Info, 64), make(chan struct{})
	go func() {
		defer close(counted)
		for u := range ch {
			r.Records++
			r.Bytes += size(u)
		}
	}()
	err := prune(ch)
	close(ch)
	<-counted
	return r, err
}
