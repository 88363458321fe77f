package cache

import (
	"github.com/pkg/errors"
	"golang.org/x/sys/unix"
)

// systemBootID is the random ID of the boot session. (kern.boottime moves when the clock is set,
// kern.bootuuid names the volume that was booted from.)
func systemBootID() (string, error) {
	id, err := unix.Sysctl("kern.bootsessionuuid")
	if err == nil && id == "" {
		err = errors.New("it is empty")
	}
	return id, errors.Wrap(err, "reading the boot ID")
}
