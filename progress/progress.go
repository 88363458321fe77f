// Package progress is how long operations tell a client what they are doing.
package progress

import "context"

// Controller reports the steps of one vertex of a build. An implementation must be safe
// for concurrent use. A nil Controller is legal wherever the cache takes one.
type Controller interface {
	// Start opens the report. The returned context carries it; the function ends it and
	// takes the final error of the work, nil for success.
	Start(context.Context) (context.Context, func(error))
	// Status reports that action began on id; the returned function says that it ended.
	Status(id, action string) func()
}
