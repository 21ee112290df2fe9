/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Trace events of what changes rarely. Marks and counters have none: a host
 * reads them, and perf can probe pvd_mark() and pvd_hold().
 */
#undef TRACE_SYSTEM
#define TRACE_SYSTEM pvdirty

#if !defined(PVDIRTY_TRACE_H) || defined(TRACE_HEADER_MULTI_READ)
#define PVDIRTY_TRACE_H

#include <linux/tracepoint.h>

TRACE_EVENT(pvdirty_port,
	    TP_PROTO(const char *name, bool registered, u32 features,
		     u16 error),
	    TP_ARGS(name, registered, features, error),
	    TP_STRUCT__entry(__array(char, name, 20)
			     __field(bool, registered)
			     __field(u32, features)
			     __field(u16, error)),
	    TP_fast_assign(strscpy(__entry->name, name, sizeof(__entry->name));
			   __entry->registered = registered;
			   __entry->features = features;
			   __entry->error = error;),
	    TP_printk("%s registered=%d features=%#x error=%u", __entry->name,
		      __entry->registered, __entry->features, __entry->error)
);

TRACE_EVENT(pvdirty_device,
	    TP_PROTO(const char *name, u8 state, u8 reason),
	    TP_ARGS(name, state, reason),
	    TP_STRUCT__entry(__array(char, name, 20)
			     __field(u8, state)
			     __field(u8, reason)),
	    TP_fast_assign(strscpy(__entry->name, name, sizeof(__entry->name));
			   __entry->state = state;
			   __entry->reason = reason;),
	    TP_printk("%s state=%u reason=%u", __entry->name, __entry->state,
		      __entry->reason)
);

#endif /* PVDIRTY_TRACE_H */

#undef TRACE_INCLUDE_PATH
#define TRACE_INCLUDE_PATH .
#undef TRACE_INCLUDE_FILE
#define TRACE_INCLUDE_FILE trace
#include <trace/define_trace.h>
