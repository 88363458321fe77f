package cache

import (
	"encoding/hex"

	"github.com/pkg/errors"
	"golang.org/x/sys/unix"
)

// systemBootID is the random ID that the kernel gave itself when it started, 16 bytes. Older kernels have none; their
// kern.boottime, which moves when the clock is set, would have records dropped for nothing.
func systemBootID() (string, error) {
	id, err := unix.SysctlRaw("kern.boot_id")
	if err == nil && len(id) == 0 {
		err = errors.New("it is empty")
	}
	if err != nil {
		return "", errors.Wrap(err, "reading the boot ID")
	}
	return hex.EncodeToString(id), nil
}
