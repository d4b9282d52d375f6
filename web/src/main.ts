import { SocketConnector } from "./connect/socket";
import { elementOf } from "./root/host";
import { render } from "./root/render";
import "./root/standalone.css";

render(elementOf("app"), new SocketConnector(), { standalone: true });
