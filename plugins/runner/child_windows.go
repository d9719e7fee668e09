package runner

import (
	"fmt"
	"os"
	"os/exec"
	"syscall"
	"unsafe"

	"golang.org/x/sys/windows"
)

// A family is the command with all that it starts. They are in one job object
// with brevet, which ends all when brevet does, however it does.
type family struct {
	shared  bool // never
	command *os.Process
}

// Conceal does nothing: a process of the same user may read this one's memory.
func Conceal() error { return nil }

// prepare gives the command a process group of its own, which Ctrl-Break can be
// sent to.
func (f *family) prepare(cmd *exec.Cmd) {
	cmd.SysProcAttr = &syscall.SysProcAttr{CreationFlags: windows.CREATE_NEW_PROCESS_GROUP}
}

// newFamily puts brevet into a new job object. Its handle stays open until the
// end of brevet, and is the only one.
func newFamily(bool, *terminal, []string) (*family, error) {
	job, err := windows.CreateJobObject(nil, nil)
	if err != nil {
		return nil, fmt.Errorf("making a job object: %w", err)
	}
	var info windows.JOBOBJECT_EXTENDED_LIMIT_INFORMATION
	info.BasicLimitInformation.LimitFlags = windows.JOB_OBJECT_LIMIT_KILL_ON_JOB_CLOSE
	_, err = windows.SetInformationJobObject(job, windows.JobObjectExtendedLimitInformation,
		uintptr(unsafe.Pointer(&info)), uint32(unsafe.Sizeof(info)))
	if err == nil {
		err = windows.AssignProcessToJobObject(job, windows.CurrentProcess())
	}
	if err != nil {
		return nil, fmt.Errorf("setting up a job object: %w", err)
	}
	return &family{}, nil
}

func (f *family) started(p *os.Process) error { f.command = p; return nil }

// signal sends Ctrl-Break, the only thing that can be sent to another group.
func (f *family) signal(syscall.Signal) {
	windows.GenerateConsoleCtrlEvent(windows.CTRL_BREAK_EVENT, uint32(f.command.Pid)) // else it has ended
}

// kill ends the command; what it started ends with brevet.
func (f *family) kill() { f.command.Kill() }

// end reports false: what is left behind ends with brevet.
func (f *family) end() bool { return false }

func (f *family) dismiss() {}
