//go:build !linux

package apply

import (
	"os"

	"github.com/pkg/errors"
)

// rights is what this process may make.
type rights struct {
	override, device, security bool
	owner                      func(uid, gid int) bool
}

// processRights: root may do everything, and so may everybody where there are no user numbers.
func processRights() rights {
	all := os.Geteuid() <= 0
	return rights{
		override: all, device: all, security: all,
		owner: func(uid, gid int) bool { return all || uid == os.Geteuid() && gid == os.Getegid() },
	}
}

// mayMark: there is no overlayfs here.
func mayMark() error { return errors.New("there is no overlayfs on this system") }
