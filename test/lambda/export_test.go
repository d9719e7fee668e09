package lambda

// API returns where the APIs are: 127.0.0.1:PORT.
func (s *Sandbox) API() string { return s.addr }
