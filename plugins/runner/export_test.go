package runner

import "time"

// SetIdleTime makes Run wait for idle output for d instead of five seconds.
func (c *Command) SetIdleTime(d time.Duration) { c.idle = d }
