-- Writes the entries of all waiters of one process, since only one of them sends claims.
-- KEYS: the layer's waiters
-- ARGV: life of an entry (ms), then the waiters' values
local waiters, patience = KEYS[1], tonumber(ARGV[1])
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
for i = 2, #ARGV do
  if redis.call('ZCARD', waiters) < 1000 then
    redis.call('ZADD', waiters, now, ARGV[i])
  end
end
redis.call('ZREMRANGEBYSCORE', waiters, '-inf', now - patience)
redis.call('PEXPIRE', waiters, patience)
return 1
